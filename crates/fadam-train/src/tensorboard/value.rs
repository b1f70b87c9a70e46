//! What is shown under a tag: a number, a distribution, a picture, text.

use super::messages::{
    Content, DT_STRING, Dim, Histogram, Image, Metadata, Plugin, Shape, Tensor, Value,
};
use crate::Picture;

/// A number, in f32 as TensorBoard has them.
pub(crate) fn scalar(tag: impl Into<String>, number: f64) -> Value {
    of(tag, Content::Scalar(number as f32))
}

/// A distribution.
pub(crate) fn histogram(tag: impl Into<String>, histogram: Histogram) -> Value {
    of(tag, Content::Histogram(histogram))
}

/// A picture, under its name.
pub(crate) fn image(picture: &Picture) -> Value {
    let (width, height) = picture.size();
    let image = Image {
        height: height.cast_signed(),
        width: width.cast_signed(),
        colorspace: 3,
        encoded: picture.png().to_vec(),
    };
    of(picture.name(), Content::Image(image))
}

/// Text that is shown as it is: a block of code, since TensorBoard reads Markdown.
pub(crate) fn text(tag: impl Into<String>, text: &str) -> Value {
    let tensor = Tensor {
        dtype: DT_STRING,
        shape: Some(Shape { dims: vec![Dim { size: 1 }] }),
        strings: vec![as_code(text).into_bytes()],
    };
    let plugin = Some(Plugin { name: "text".to_owned() });
    Value { metadata: Some(Metadata { plugin }), ..of(tag, Content::Tensor(tensor)) }
}

fn of(tag: impl Into<String>, content: Content) -> Value {
    Value { tag: tag.into(), metadata: None, content: Some(content) }
}

/// Every line four blanks in: nothing in the text can end such a block.
fn as_code(text: &str) -> String {
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}

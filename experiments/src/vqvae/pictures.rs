//! Pictures to train and to evaluate on.

use std::io::IsTerminal;
use std::sync::Arc;

use fadam_data::image::{ImageSet, ImageSource, Picture, SetSpec, check_held_out, hold_out};
use fadam_train::bad_input;

use super::config::VqVaeData;

/// What `[data]` describes.
#[derive(Debug)]
pub struct Pictures {
    /// To train on.
    pub train: Arc<ImageSet>,
    /// To evaluate on.
    pub held_out: Arc<ImageSet>,
}

impl Pictures {
    /// Lists and checks all pictures, for images of `size` pixels a side, and says what became of them unless `quiet`.
    ///
    /// # Errors
    /// Bad input: places without pictures, a picture on both sides, nothing that can be used.
    pub fn read(data: &VqVaeData, size: usize, quiet: bool) -> anyhow::Result<Self> {
        let train = pictures(&data.source(), quiet)?;
        let (train, held_out) = match data.eval_source() {
            Some(source) => {
                let held_out = pictures(&source, quiet)?;
                check_held_out(&train, &held_out).map_err(bad_input)?;
                (train, held_out)
            }
            None => hold_out(train, data.eval_fraction).map_err(bad_input)?,
        };
        let spec = data.set_spec(size);
        Ok(Self {
            train: set("training", train, &spec, quiet)?,
            held_out: set("held out", held_out, &spec, quiet)?,
        })
    }
}

fn pictures(source: &ImageSource, quiet: bool) -> anyhow::Result<Vec<Picture>> {
    let (pictures, report) = source.read().map_err(bad_input)?;
    if !quiet {
        println!("{report}");
    }
    Ok(pictures)
}

fn set(
    what: &str,
    pictures: Vec<Picture>,
    spec: &SetSpec,
    quiet: bool,
) -> anyhow::Result<Arc<ImageSet>> {
    let shown = !quiet && std::io::stderr().is_terminal();
    let progress = |done: usize, total: usize| {
        if shown {
            eprint!("\r\x1b[Klooking at {what} pictures: {done} of {total}");
        }
    };
    let set = ImageSet::build(pictures, spec, &progress);
    if shown {
        eprint!("\r\x1b[K");
    }
    let set = set.map_err(bad_input)?;
    if !quiet {
        println!("{what}: {}", set.report());
    }
    Ok(Arc::new(set))
}

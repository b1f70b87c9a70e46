//! Charts as SVG that take the colour of the text around them, so that they can be read on a light and on a dark ground.
//!
//! plotters lays out the axes. Lines, bands, error bars, markers and the legend are drawn on the pixels that it says.

mod draw;

use plotters::prelude::{IntoDrawingArea, SVGBackend};

use draw::{Frame, LEGEND_LINE, SIZE};

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// The horizontal axis.
    pub x: Axis,
    /// What the vertical axis counts, with its unit.
    pub y_label: String,
    /// One legend entry each, if there are several.
    pub series: Vec<Series>,
    /// Words at the upper edge over a category: what has no number.
    pub notes: Vec<(usize, String)>,
}

/// The horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub enum Axis {
    /// Numbers from 0; the frame is that of what comes after the first fifth.
    Steps,
    /// Places 0, 1, 2, … with a name each.
    Categories {
        /// What they are.
        label: String,
        /// Their names.
        names: Vec<String>,
    },
}

/// A line, or points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// For the legend.
    pub label: String,
    /// In the order of `x`.
    pub points: Vec<Point>,
    /// Whether the points are joined.
    pub is_line: bool,
}

/// A value with what it may be off by on either side, 0 for nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// Half the height of its error bar, or of the band around a line over steps.
    pub error: f64,
}

/// The picture; none if there is no point to draw.
///
/// # Errors
///
/// None that drawing into memory can have.
pub fn svg(chart: &Chart) -> anyhow::Result<Option<String>> {
    let Some(frame) = Frame::of(chart) else {
        return Ok(None);
    };
    let legend = draw::legend(chart);
    let height = SIZE.1 + (legend.len() as u32) * LEGEND_LINE as u32;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        let (plot, _) = root.split_vertically(SIZE.1);
        let at = draw::axes(&plot, chart, &frame)?;
        for (k, series) in chart.series.iter().enumerate() {
            draw::series(&root, chart, series, k, &frame, &at)?;
        }
        draw::notes(&root, chart, &frame, &at)?;
        for (line, entries) in legend.iter().enumerate() {
            let y = SIZE.1.cast_signed() + i32::try_from(line)? * LEGEND_LINE + LEGEND_LINE / 2;
            draw::legend_line(&root, chart, entries, y)?;
        }
        root.present()?;
    }
    // The text's colour, and no size of its own: the page decides.
    let svg = svg.replace("\"#010203\"", "\"currentColor\"");
    Ok(Some(svg.replacen(&format!("width=\"{}\" height=\"{height}\" ", SIZE.0), "", 1)))
}

/// The picture as a file of its own, which has no text around it to take the colour of.
pub fn standalone(svg: &str) -> String {
    let style = "<style>:root { color: #1c1e21; } @media (prefers-color-scheme: dark) { :root { color: #e4e6e9; } }</style>";
    svg.replacen(">\n", &format!(">\n{style}\n"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(label: &str, values: &[f64]) -> Series {
        let point = |(k, y): (usize, &f64)| Point { x: 10.0 * k as f64, y: *y, error: 0.1 };
        Series {
            label: label.to_owned(),
            points: values.iter().enumerate().map(point).collect(),
            is_line: true,
        }
    }

    #[test]
    fn curves_take_the_colour_of_the_text_and_no_size() {
        let chart = Chart {
            x: Axis::Steps,
            y_label: "held-out loss (nats a token)".to_owned(),
            series: vec![series("FAdam <1>", &[9.0, 3.0, 2.0]), series("Adam", &[9.0, 4.0, 3.0])],
            notes: vec![],
        };
        let svg = svg(&chart).unwrap().unwrap();
        for part in
            ["held-out loss (nats a token)", "step", "FAdam &lt;1&gt;", "currentColor", "viewBox"]
        {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("#010203") && !svg.contains("<svg width"), "{svg}");
        assert!(!svg.contains("#000000") && !svg.contains("#FFFFFF"), "a colour of its own");
        assert!(standalone(&svg).contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn categories_have_error_bars_names_and_notes() {
        let chart = Chart {
            x: Axis::Categories {
                label: "ε".to_owned(),
                names: vec!["1e-8".into(), "1e-30".into()],
            },
            y_label: "loss".to_owned(),
            series: vec![Series { is_line: false, ..series("", &[2.0]) }],
            notes: vec![(1, "NaN \u{d7}3".to_owned())],
        };
        let svg = svg(&chart).unwrap().unwrap();
        assert!(
            svg.contains("1e-30") && svg.contains("NaN \u{d7}3") && svg.contains("<circle"),
            "{svg}"
        );
    }

    #[test]
    fn nothing_to_draw_is_no_picture() {
        let chart = Chart { x: Axis::Steps, y_label: String::new(), series: vec![], notes: vec![] };
        assert_eq!(svg(&chart).unwrap(), None);
        let one = Chart { series: vec![series("one", &[1.0])], ..chart };
        assert!(svg(&one).unwrap().is_some());
    }
}

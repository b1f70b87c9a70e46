//! The loss curve as SVG.

use plotters::prelude::*;

use crate::metrics::Curves;

pub(crate) const FILE: &str = "loss.svg";

/// Size in pixels, with text that can still be read at half of it, on a phone.
pub(crate) const SIZE: (u32, u32) = (720, 480);
pub(crate) const TEXT: u32 = 24;

/// More points than this are averaged in groups: a curve cannot show more.
const MAX_POINTS: usize = 1000;

pub(crate) const TRAIN: RGBColor = RGBColor(0x6b, 0xa3, 0xd6);
pub(crate) const EVAL: RGBColor = RGBColor(0xc4, 0x3c, 0x39);

/// Training and evaluation loss in nats against the step; `None` before there is a point to draw.
pub(crate) fn loss_curve(
    title: &str,
    unit: &str,
    curves: &Curves,
) -> anyhow::Result<Option<String>> {
    let (train, eval) = (thin(&curves.train), thin(&curves.eval));
    let all = || train.iter().chain(&eval);
    let Some(last_step) = all().map(|(step, _)| *step).reduce(f64::max) else {
        return Ok(None);
    };
    let low = all().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    let high = all().map(|(_, loss)| *loss).fold(f64::NEG_INFINITY, f64::max);
    let margin = 0.05 * (high - low).max(1e-6 * high.abs()).max(1e-9);

    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", TEXT))
        .margin(16)
        .x_label_area_size(56)
        .y_label_area_size(88)
        .build_cartesian_2d(0.0..last_step.max(1.0), low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_labels(5)
        .y_labels(6)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .light_line_style(WHITE)
        .x_desc("step")
        .y_desc(format!("loss (nats per {})", singular(unit)))
        .label_style(("sans-serif", TEXT - 2))
        .axis_desc_style(("sans-serif", TEXT))
        .draw()?;
    for (label, color, points) in [("train", TRAIN, train), ("eval", EVAL, eval)] {
        let style = color.stroke_width(3);
        let markers = points.clone();
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        if label == "eval" {
            chart.draw_series(markers.into_iter().map(|at| Circle::new(at, 4, color.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .legend_area_size(32)
        .label_font(("sans-serif", TEXT))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(Some(svg))
}

fn singular(unit: &str) -> &str {
    unit.strip_suffix('s').unwrap_or(unit)
}

/// At most [`MAX_POINTS`] points, each the mean of a group of neighbours.
fn thin(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |group: &[(u64, f64)]| {
        let n = group.len() as f64;
        let step = group.iter().map(|(step, _)| *step as f64).sum::<f64>() / n;
        (step, group.iter().map(|(_, loss)| loss).sum::<f64>() / n)
    };
    points.chunks(group).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_with_title_axes_and_legend() {
        let curves = Curves {
            train: (1..5000).map(|step| (step, 1.0 / step as f64)).collect(),
            eval: vec![(0, 1.5), (100, 0.5)],
        };
        let svg = loss_curve("train-llm, fadam", "tokens", &curves).unwrap().unwrap();
        for text in ["<svg", "train-llm, fadam", "step", "loss (nats per token)", "eval", "viewBox"]
        {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.len() < 100_000, "{} bytes", svg.len());
    }

    #[test]
    fn one_point_or_none_is_no_error() {
        let flat = Curves { train: vec![], eval: vec![(0, 2.0)] };
        assert!(loss_curve("t", "images", &flat).unwrap().is_some());
        assert!(loss_curve("t", "images", &Curves::default()).unwrap().is_none());
    }
}

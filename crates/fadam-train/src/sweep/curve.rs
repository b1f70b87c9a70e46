//! The curve of a sweep over one numeric key, with error bars, as SVG.

use plotters::prelude::*;

use super::answers::{answers, phase_words};
use super::plan::{Phase, Plan, Records};
use crate::plot::{EVAL, SIZE, TEXT, TRAIN};

pub(super) const FILE: &str = "sweep.svg";

/// Values this many times apart are drawn by their logarithm.
const LOG_RANGE: f64 = 20.0;

/// The colours of the series: an order that is told apart by all eyes.
const COLOURS: [RGBColor; 4] =
    [EVAL, TRAIN, RGBColor(0x4c, 0x9a, 0x2a), RGBColor(0x8e, 0x5e, 0xa2)];

/// One line.
struct Series {
    label: String,
    /// x, mean loss, standard error.
    points: Vec<(f64, f64, f64)>,
}

/// Mean held-out loss against the values of the only axis; `None` if there is not exactly one numeric axis, or no point yet.
/// A cell with a diverged seed has no point.
pub(super) fn draw(plan: &Plan, records: &Records) -> anyhow::Result<Option<String>> {
    let Some(xs) = plan.numeric_axis() else {
        return Ok(None);
    };
    let series = series(plan, records);
    let all = || series.iter().flat_map(|series| &series.points);
    if all().next().is_none() {
        return Ok(None);
    }
    let log = xs.iter().all(|x| *x > 0.0) && max(&xs) > LOG_RANGE * min(&xs);
    let at = |x: f64| if log { x.log10() } else { x };
    let place: Vec<f64> = xs.iter().map(|x| at(*x)).collect();
    let side = 0.05 * (max(&place) - min(&place)).max(1e-9);
    let low = all().map(|(_, y, e)| y - e).fold(f64::INFINITY, f64::min);
    let high = all().map(|(_, y, e)| y + e).fold(f64::NEG_INFINITY, f64::max);
    let margin = 0.08 * (high - low).max(1e-6 * high.abs()).max(1e-9);

    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&plan.spec.name, ("sans-serif", TEXT))
        .margin(16)
        .x_label_area_size(56)
        .y_label_area_size(88)
        .build_cartesian_2d(min(&place) - side..max(&place) + side, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_labels(9)
        .y_labels(6)
        .x_label_formatter(&|x| if log { format!("1e{x:.0}") } else { format!("{x:.1}") })
        .light_line_style(WHITE)
        .x_desc(&plan.spec.axes[0].key)
        .y_desc("held-out loss (nats)")
        .label_style(("sans-serif", TEXT - 2))
        .axis_desc_style(("sans-serif", TEXT))
        .draw()?;
    for (i, Series { label, points }) in series.iter().enumerate() {
        let style = COLOURS[i % COLOURS.len()].stroke_width(3);
        let line = points.iter().map(|(x, y, _)| (at(*x), *y));
        chart
            .draw_series(LineSeries::new(line.clone(), style))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        chart.draw_series(line.map(|at| Circle::new(at, 5, style.color.filled())))?;
        let bars = points.iter().map(|(x, y, e)| [(at(*x), y - e), (at(*x), y + e)]);
        chart.draw_series(bars.map(|bar| PathElement::new(bar, style.color.stroke_width(2))))?;
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

/// A line for each named cell and phase.
fn series(plan: &Plan, records: &Records) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for answer in answers(plan, records) {
        let (mean, error) = answer.loss();
        let (name, x) = plan.point(answer.cell);
        let words = phase_words(plan, answer.phase);
        let label: Vec<String> = name.into_iter().chain(words).collect();
        let label = if label.is_empty() { "mean".to_owned() } else { label.join(", ") };
        let Some(x) = x.filter(|_| mean.is_finite() && answer.phase != Phase::Search) else {
            continue;
        };
        let point = (x, mean, error.unwrap_or(0.0));
        match series.iter_mut().find(|other| other.label == label) {
            Some(line) => line.points.push(point),
            None => series.push(Series { label, points: vec![point] }),
        }
    }
    for line in &mut series {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    series
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

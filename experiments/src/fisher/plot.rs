//! A measure over B as SVG: a column a problem, a row a point of training.

use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::agreement::Mean;
use super::diagonal::Estimator;
use super::report::Summary;
use super::study::Scope;

/// A panel, and the legend above all, in pixels; text that can still be read at half its size.
const PANEL: (u32, u32) = (400, 300);
const LEGEND: i32 = 116;
const TEXT: u32 = 20;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is drawn.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// The title of the y axis.
    pub(crate) name: &'static str,
    /// Of single batches, with markers and ± one standard error.
    pub(crate) drawn: fn(&Summary) -> Mean,
    /// Of expectations, as a thin line.
    pub(crate) expected: fn(&Summary) -> Mean,
    /// The range of the y axis, which is logarithmic.
    pub(crate) range: (f64, f64),
}

/// The colours of the estimators, told apart without red against green.
fn colour(estimator: Estimator) -> RGBColor {
    match estimator {
        Estimator::SampledSquares => RGBColor(0x1b, 0x6c, 0xa8),
        Estimator::SampledMean => RGBColor(0x7f, 0xb8, 0xe0),
        Estimator::Squares => RGBColor(0xd9, 0x8e, 0x04),
        Estimator::Micro(_) => RGBColor(0x8c, 0x56, 0xa8),
        Estimator::Minibatch => RGBColor(0xc4, 0x3c, 0x39),
    }
}

/// The figure. Of several σ it shows the first.
///
/// # Errors
/// If there is nothing to draw.
pub(crate) fn figure(summaries: &[Summary], measure: &Measure) -> anyhow::Result<String> {
    let all: Vec<&Summary> = summaries.iter().filter(|s| s.cell.scope == Scope::All).collect();
    let mut columns = Vec::new();
    let mut points = Vec::new();
    let mut estimators = Vec::new();
    for cell in all.iter().map(|s| &s.cell) {
        if !columns.iter().any(|(problem, _)| *problem == cell.problem) {
            columns.push((cell.problem, cell.sigma.clone()));
        }
        if !points.contains(&cell.steps) {
            points.push(cell.steps);
        }
        if !estimators.contains(&cell.estimator) {
            estimators.push(cell.estimator);
        }
    }
    let size =
        (PANEL.0 * columns.len() as u32, PANEL.1 * points.len() as u32 + LEGEND.cast_unsigned());
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (top, below) = root.split_vertically(LEGEND);
        legend(&top, &estimators, size.0)?;
        let panels = below.split_evenly((points.len(), columns.len()));
        for (k, panel) in panels.iter().enumerate() {
            let (steps, column) = (points[k / columns.len()], &columns[k % columns.len()]);
            let here: Vec<&Summary> = all
                .iter()
                .copied()
                .filter(|s| s.cell.steps == steps && s.cell.problem == column.0)
                .filter(|s| s.cell.sigma == column.1)
                .collect();
            let title = format!("{}, {steps} steps", column.0);
            draw(panel, &title, &here, &estimators, measure)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn legend(area: &Area<'_>, estimators: &[Estimator], width: u32) -> anyhow::Result<()> {
    let font = ("sans-serif", TEXT).into_font();
    let each = (width / 2).cast_signed();
    let mut entries: Vec<(Option<RGBColor>, String)> =
        estimators.iter().map(|estimator| (Some(colour(*estimator)), estimator.name())).collect();
    entries.push((None, "thin: expectation over batches".to_owned()));
    for (k, (colour, words)) in (0..).zip(entries) {
        let (x, y) = (16 + each * (k % 2), 20 + 32 * (k / 2));
        let style = colour.map_or(BLACK.stroke_width(1), |colour| colour.stroke_width(3));
        area.draw(&PathElement::new([(x, y), (x + 32, y)], style))?;
        if let Some(colour) = colour {
            area.draw(&Circle::new((x + 16, y), 5, colour.filled()))?;
        }
        area.draw(&Text::new(words, (x + 42, y - 10), font.clone()))?;
    }
    Ok(())
}

fn draw(
    area: &Area<'_>,
    title: &str,
    cells: &[&Summary],
    estimators: &[Estimator],
    measure: &Measure,
) -> anyhow::Result<()> {
    let batch = |s: &&Summary| s.cell.batch as f64;
    let least = cells.iter().map(batch).reduce(f64::min).context("no numbers to draw")?;
    let most = cells.iter().map(batch).fold(least * 2.0, f64::max);
    let (low, high) = measure.range;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", TEXT))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (least * 0.8..most * 1.25).log_scale().base(4.0),
            (low..high).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|b| format!("{b:.0}"))
        .y_label_formatter(&|y| format!("{y}"))
        .light_line_style(WHITE)
        .x_desc("B, examples")
        .y_desc(measure.name)
        .label_style(("sans-serif", TEXT - 2))
        .axis_desc_style(("sans-serif", TEXT - 2))
        .draw()?;
    let inside = |y: f64| y.is_finite() && y > 0.0;
    for estimator in estimators {
        let own = || cells.iter().filter(|s| s.cell.estimator == *estimator);
        let colour = colour(*estimator);
        let line = |of: fn(&Summary) -> Mean| {
            own()
                .map(|s| (s.cell.batch as f64, of(s).mean))
                .filter(|(_, y)| inside(*y))
                .map(|(b, y)| (b, y.clamp(low, high)))
                .collect::<Vec<_>>()
        };
        if !estimator.samples() {
            chart.draw_series(LineSeries::new(line(measure.expected), colour.stroke_width(1)))?;
        }
        let points = line(measure.drawn);
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(3)))?;
        chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, colour.filled())))?;
        let bars = own().map(|s| (s.cell.batch as f64, (measure.drawn)(s)));
        let bars = bars.filter(|(_, mean)| inside(mean.mean) && mean.error.is_finite());
        chart.draw_series(bars.map(|(b, Mean { mean, error, .. })| {
            let (from, to) = ((mean - error).clamp(low, high), (mean + error).clamp(low, high));
            PathElement::new(vec![(b, from), (b, to)], colour.stroke_width(2))
        }))?;
    }
    Ok(())
}

//! The parts of a chart: axes by plotters, and on the pixels that it says lines, bands, error bars, markers, the legend.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Axis, Chart, Point, Series};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Width and height of the plot with its axes; the legend comes below. Text is readable at half the size, on a phone.
pub(super) const SIZE: (u32, u32) = (640, 400);
const TEXT: u32 = 26;
/// What a character takes on the average, of the text's size.
const CHARACTER: f64 = 0.46;
pub(super) const LEGEND_LINE: i32 = 30;
/// What a line of names below the axis takes.
const NAME_LINE: i32 = 23;
/// What is left and right of the plot.
const SIDES: (u32, u32) = (104, 28);

/// Stands for the colour of the surrounding text until the picture is finished.
const INK: RGBColor = RGBColor(1, 2, 3);

/// Each has a contrast of at least 3 with white and with the dark ground of the page. Markers tell apart what colours do not.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x3a, 0x7f, 0xd5),
    RGBColor(0xd9, 0x64, 0x0f),
    RGBColor(0x2f, 0x9e, 0x62),
    RGBColor(0xb8, 0x52, 0x9c),
    RGBColor(0x8a, 0x7a, 0x1f),
    RGBColor(0x8f, 0x6b, 0xe0),
    RGBColor(0x0f, 0x95, 0xa5),
    RGBColor(0xd1, 0x49, 0x5b),
];

/// What is seen of the plane.
pub(super) struct Frame {
    last: f64,
    low: f64,
    pub(super) high: f64,
}

impl Frame {
    pub(super) fn of(chart: &Chart) -> Option<Self> {
        let points = || chart.series.iter().flat_map(|series| &series.points);
        let last = points().map(|point| point.x).reduce(f64::max)?;
        let from = if chart.x == Axis::Steps { 0.2 * last } else { f64::NEG_INFINITY };
        let seen = || points().filter(|point| point.x >= from);
        let low = seen().map(|point| point.y - point.error).reduce(f64::min)?;
        let high = seen().map(|point| point.y + point.error).reduce(f64::max)?;
        let margin = 0.06 * (high - low).max(1e-6 * high.abs()).max(1e-9);
        let room = if chart.notes.is_empty() { margin } else { 3.0 * margin };
        Some(Self { last: last.max(1.0), low: low - margin, high: high + room })
    }

    /// A line without what is above the frame, cut where it enters.
    fn inside(&self, points: &[Point]) -> Vec<Point> {
        let mut inside: Vec<Point> = Vec::new();
        for (k, point) in points.iter().enumerate() {
            if point.y > self.high {
                continue;
            }
            if let Some(above) = k.checked_sub(1).map(|k| points[k]).filter(|p| p.y > self.high) {
                let t = (above.y - self.high) / (above.y - point.y);
                let x = above.x + t * (point.x - above.x);
                inside.push(Point { x, y: self.high, error: 0.0 });
            }
            inside.push(*point);
        }
        inside
    }
}

/// Draws the axes and returns where a point of the plane is on the picture.
pub(super) fn axes(
    plot: &Area<'_>,
    chart: &Chart,
    frame: &Frame,
) -> anyhow::Result<impl Fn(f64, f64) -> (i32, i32) + use<>> {
    let (first, last) = match &chart.x {
        Axis::Steps => (0.0, frame.last),
        Axis::Categories { names, .. } => (-0.5, names.len() as f64 - 0.5),
    };
    let x_label = match &chart.x {
        Axis::Steps => "step",
        Axis::Categories { label, .. } => label,
    };
    let names = names(chart);
    let below = match names.iter().map(Vec::len).max() {
        None => 66,
        Some(lines) => {
            12 + NAME_LINE * i32::try_from(lines)? + if x_label.is_empty() { 0 } else { 32 }
        }
    };
    let mut built = ChartBuilder::on(plot)
        .margin(12)
        .margin_left(0)
        .margin_right(SIDES.1)
        .x_label_area_size(below)
        .y_label_area_size(SIDES.0)
        .build_cartesian_2d(first..last, frame.low..frame.high)?;
    let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
    built
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(if chart.x == Axis::Steps { 5 } else { 0 })
        .y_labels(6)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .x_desc(x_label)
        .y_desc(&chart.y_label)
        .label_style(font(TEXT - 2))
        .axis_desc_style(font(TEXT))
        .draw()?;
    let at = |x: f64, y: f64| built.backend_coord(&(x, y));
    let (left, top) = at(first, frame.high);
    let (right, bottom) = at(last, frame.low);
    for (k, lines) in names.iter().enumerate() {
        let (x, _) = at(k as f64, frame.low);
        for (line, words) in lines.iter().enumerate() {
            label(plot, words, (x, bottom + 8 + i32::try_from(line)? * NAME_LINE), HPos::Center)?;
        }
    }
    let (x_scale, y_scale) = (
        f64::from(right - left) / (last - first),
        f64::from(bottom - top) / (frame.high - frame.low),
    );
    let high = frame.high;
    Ok(move |x: f64, y: f64| {
        let (x, y) = ((x - first) * x_scale, (high - y) * y_scale);
        (left + x.round() as i32, top + y.round() as i32)
    })
}

/// The lines of each name below the axis, as many characters long as there is room for.
fn names(chart: &Chart) -> Vec<Vec<String>> {
    let Axis::Categories { names, .. } = &chart.x else {
        return Vec::new();
    };
    let width = f64::from(SIZE.0 - SIDES.0 - SIDES.1) / names.len() as f64;
    let room = (width / (CHARACTER * f64::from(TEXT - 2))) as usize;
    names.iter().map(|name| wrapped(name, room)).collect()
}

/// A text in lines of about `room` characters, broken at spaces.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn label(root: &Area<'_>, words: &str, at: (i32, i32), h: HPos) -> anyhow::Result<()> {
    let v = if matches!(h, HPos::Left) { VPos::Center } else { VPos::Top };
    let style = ("sans-serif", TEXT - 2).into_font().color(&INK).pos(Pos::new(h, v));
    Ok(root.draw(&Text::new(words.to_owned(), at, style))?)
}

/// Draws a series: its band, its line, its error bars and its markers.
pub(super) fn series(
    root: &Area<'_>,
    chart: &Chart,
    series: &Series,
    k: usize,
    frame: &Frame,
    at: &dyn Fn(f64, f64) -> (i32, i32),
) -> anyhow::Result<()> {
    let colour = COLOURS[k % COLOURS.len()];
    let points = frame.inside(&series.points);
    if chart.x == Axis::Steps && points.iter().any(|point| point.error > 0.0) {
        let edge =
            |point: &Point, sign: f64| at(point.x, (point.y + sign * point.error).min(frame.high));
        let upper = points.iter().map(|point| edge(point, 1.0));
        let lower = points.iter().rev().map(|point| edge(point, -1.0));
        let band: Vec<(i32, i32)> = upper.chain(lower).collect();
        root.draw(&Polygon::new(band, colour.mix(0.2)))?;
    }
    if series.is_line {
        let line: Vec<(i32, i32)> = points.iter().map(|point| at(point.x, point.y)).collect();
        root.draw(&PathElement::new(line, colour.stroke_width(3)))?;
    }
    // A line over many steps needs a marker here and there.
    let every = if chart.x == Axis::Steps { points.len().div_ceil(8).max(1) } else { 1 };
    for (i, point) in points.iter().enumerate() {
        let (x, y) = at(point.x, point.y);
        if chart.x != Axis::Steps && point.error > 0.0 {
            let (_, top) = at(point.x, point.y + point.error);
            let (_, bottom) = at(point.x, point.y - point.error);
            let strokes = [
                [(x, top), (x, bottom)],
                [(x - 6, top), (x + 6, top)],
                [(x - 6, bottom), (x + 6, bottom)],
            ];
            for stroke in strokes {
                root.draw(&PathElement::new(stroke, colour.stroke_width(2)))?;
            }
        }
        if (i + k * every / 4).is_multiple_of(every) {
            marker(root, k, (x, y))?;
        }
    }
    Ok(())
}

/// Draws the words over categories.
pub(super) fn notes(
    root: &Area<'_>,
    chart: &Chart,
    frame: &Frame,
    at: &dyn Fn(f64, f64) -> (i32, i32),
) -> anyhow::Result<()> {
    for (category, words) in &chart.notes {
        let (x, y) = at(*category as f64, frame.high);
        label(root, words, (x, y + 4), HPos::Center)?;
    }
    Ok(())
}

/// A disc, a triangle, a square or a diamond, in turn.
fn marker(root: &Area<'_>, k: usize, (x, y): (i32, i32)) -> anyhow::Result<()> {
    let colour = COLOURS[k % COLOURS.len()].filled();
    let polygon = |corners: &[(i32, i32)]| {
        Polygon::new(corners.iter().map(|(i, j)| (x + i, y + j)).collect::<Vec<_>>(), colour)
    };
    match k % 4 {
        0 => root.draw(&Circle::new((x, y), 5, colour))?,
        1 => root.draw(&polygon(&[(0, -6), (6, 5), (-6, 5)]))?,
        2 => root.draw(&polygon(&[(-5, -5), (5, -5), (5, 5), (-5, 5)]))?,
        _ => root.draw(&polygon(&[(0, -7), (7, 0), (0, 7), (-7, 0)]))?,
    }
    Ok(())
}

/// The series by lines of the legend, each with where it begins; none for a single series.
pub(super) fn legend(chart: &Chart) -> Vec<Vec<(usize, i32)>> {
    let mut lines: Vec<Vec<(usize, i32)>> = Vec::new();
    if chart.series.len() < 2 {
        return lines;
    }
    let left = SIDES.0.cast_signed();
    let mut x = i32::MAX;
    for (k, series) in chart.series.iter().enumerate() {
        let width = 60 + (CHARACTER * f64::from(TEXT) * series.label.chars().count() as f64) as i32;
        if x.saturating_add(width) > SIZE.0.cast_signed() {
            lines.push(Vec::new());
            x = left;
        }
        lines.last_mut().expect("one was pushed first").push((k, x));
        x += width;
    }
    lines
}

/// Draws a line of the legend.
pub(super) fn legend_line(
    root: &Area<'_>,
    chart: &Chart,
    entries: &[(usize, i32)],
    y: i32,
) -> anyhow::Result<()> {
    for &(k, x) in entries {
        let colour = COLOURS[k % COLOURS.len()];
        root.draw(&PathElement::new([(x, y), (x + 28, y)], colour.stroke_width(3)))?;
        marker(root, k, (x + 14, y))?;
        label(root, &chart.series[k].label, (x + 36, y), HPos::Left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_enters_the_frame_from_above() {
        let frame = Frame { last: 20.0, low: 0.0, high: 3.0 };
        let points = frame.inside(&[(0.0, 5.0), (10.0, 1.0), (20.0, 2.0)].map(|(x, y)| Point {
            x,
            y,
            error: 0.1,
        }));
        assert_eq!((points[0].x, points[0].y, points.len()), (5.0, 3.0, 3));
    }

    /// WCAG's contrast of at least 3 for graphics, with white and with the page's dark ground.
    #[test]
    fn colours_can_be_seen_on_both_grounds() {
        let luminance = |RGBColor(r, g, b): RGBColor| {
            let linear = |channel: u8| {
                let c = f64::from(channel) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let dark = luminance(RGBColor(0x16, 0x18, 0x1d)) + 0.05;
        for colour in COLOURS {
            let own = luminance(colour) + 0.05;
            assert!(1.05 / own >= 3.0 && own / dark >= 3.0, "{colour:?}");
        }
    }

    #[test]
    fn names_are_broken_at_spaces() {
        assert_eq!(wrapped("FAdam, λ 0.001", 8), ["FAdam, λ", "0.001"]);
        assert_eq!(wrapped("adaptive", 3), ["adaptive"]);
    }
}

//! Plots as SVG.

use anyhow::Result;
use plotters::{
    coord::{
        ranged1d::{SegmentValue, SegmentedCoord},
        types::RangedCoordusize,
    },
    prelude::*,
};

const FONT: &str = "sans-serif";
const TITLE: i32 = 18;
const LABEL: i32 = 12;
const WIDTH: u32 = 720;
/// Room for the names of bars, curves or classes.
const NAMES: u32 = 160;

/// A horizontal bar for each name, the first on top, its value at its end.
pub fn bars(title: &str, values: &[(String, f64)]) -> Result<String> {
    let mut svg = String::new();
    let n = values.len();
    let size = (WIDTH, 70 + 22 * n.max(2) as u32);
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, TITLE))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(0.0..most * 1.15, segments(n))?;
        let from_top = |row: usize| &values[n - 1 - row];
        chart
            .configure_mesh()
            .max_light_lines(1)
            .disable_y_mesh()
            .y_labels(n.max(2))
            .label_style((FONT, LABEL))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|row| match row {
                SegmentValue::CenterOf(row) if *row < n => from_top(*row).0.clone(),
                _ => String::new(),
            })
            .draw()?;
        let rows = (0..n).map(|row| (row, from_top(row).1));
        chart.draw_series(
            Histogram::horizontal(&chart).style(BLUE.mix(0.6).filled()).margin(3).data(rows.clone()),
        )?;
        chart.draw_series(rows.map(|(row, value)| {
            let at = (value + most * 0.01, SegmentValue::CenterOf(row));
            EmptyElement::at(at) + Text::new(short(value), (0, -6), (FONT, LABEL))
        }))?;
        root.present()?;
    }
    Ok(svg)
}

/// Counts over whole numbers.
pub fn histogram(title: &str, axis: &str, counts: &[(u32, u32)]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 300)).into_drawing_area();
        root.fill(&WHITE)?;
        let last = counts.iter().map(|(at, _)| *at).max().unwrap_or(0);
        let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, TITLE))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d((0..last).into_segmented(), 0..most + most / 20 + 1)?;
        chart
            .configure_mesh()
            .max_light_lines(1)
            .disable_x_mesh()
            .label_style((FONT, LABEL))
            .x_desc(axis)
            .x_label_formatter(&|at| match at {
                SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => at.to_string(),
                SegmentValue::Last => String::new(),
            })
            .draw()?;
        chart.draw_series(
            Histogram::vertical(&chart).style(BLUE.mix(0.6).filled()).margin(0).data(counts.iter().copied()),
        )?;
        root.present()?;
    }
    Ok(svg)
}

/// A named line through points.
pub type Curve = (String, Vec<(f64, f64)>);

/// Curves over a common axis.
pub fn curves(title: &str, axis: &str, curves: &[Curve]) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || curves.iter().flat_map(|(_, points)| points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) = points()
                .map(of)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
            if low > high { (0.0, 1.0) } else { (low, high.max(low + 1e-6)) }
        };
        let ((x0, x1), (y0, y1)) = (range(|p| p.0), range(|p| p.1));
        let margin = (y1 - y0) * 0.05;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, TITLE))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(x0..x1, y0 - margin..y1 + margin)?;
        chart.configure_mesh().max_light_lines(1).label_style((FONT, LABEL)).x_desc(axis).draw()?;
        for (i, (name, points)) in curves.iter().enumerate() {
            let colour = Palette99::pick(i).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        // Where the curves leave room: errors fall, figures of merit rise.
        let rises = |(_, points): &(String, Vec<(f64, f64)>)| {
            points.first().zip(points.last()).is_some_and(|(first, last)| first.1 <= last.1)
        };
        let corner = if curves.iter().any(rises) {
            SeriesLabelPosition::LowerRight
        } else {
            SeriesLabelPosition::UpperRight
        };
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, LABEL))
            .position(corner)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

/// A confusion matrix: rows are truths, columns answers by their number, shaded by the row's share.
pub fn matrix(title: &str, names: &[String], counts: &[&[u32]]) -> Result<String> {
    let mut svg = String::new();
    let n = names.len();
    let side = 40 * n as u32;
    {
        let size = (side + NAMES + 16, side + 76);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, TITLE))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(segments(n), segments(n))?;
        let number = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(i) if *i < n => Some(*i),
            _ => None,
        };
        chart
            .configure_mesh()
            .max_light_lines(1)
            .disable_mesh()
            .x_labels(n)
            .y_labels(n)
            .label_style((FONT, LABEL))
            .x_label_formatter(&|at| number(at).map_or(String::new(), |i| i.to_string()))
            .y_label_formatter(&|at| {
                number(at).map_or(String::new(), |row| format!("{} ({})", names[n - 1 - row], n - 1 - row))
            })
            .draw()?;
        let cells = || (0..n).flat_map(|truth| (0..n).map(move |answer| (truth, answer)));
        let share = |truth: usize, answer: usize| {
            f64::from(counts[truth][answer]) / f64::from(counts[truth].iter().sum::<u32>().max(1))
        };
        chart.draw_series(cells().map(|(truth, answer)| {
            let row = n - 1 - truth;
            let edge = |i| if i < n { SegmentValue::Exact(i) } else { SegmentValue::Last };
            let (from, to) = ((edge(answer), edge(row)), (edge(answer + 1), edge(row + 1)));
            let colour = if truth == answer { BLUE } else { RED };
            Rectangle::new([from, to], colour.mix(0.75 * share(truth, answer)).filled())
        }))?;
        chart.draw_series(cells().filter(|&(t, a)| counts[t][a] > 0).map(|(truth, answer)| {
            let at = (SegmentValue::CenterOf(answer), SegmentValue::CenterOf(n - 1 - truth));
            let text = counts[truth][answer].to_string();
            let left = -4 * text.len() as i32;
            EmptyElement::at(at) + Text::new(text, (left, -6), (FONT, LABEL))
        }))?;
        root.present()?;
    }
    Ok(svg)
}

/// One for each of `n` rows, and never fewer than two: plotters can't draw a single one.
fn segments(n: usize) -> SegmentedCoord<RangedCoordusize> {
    (0..n.max(2) - 1).into_segmented()
}

/// A whole number, or three decimals.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { value.to_string() } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_hold_names_and_values() {
        let svg = bars("Faces", &[("worn".into(), 12.0), ("none".into(), 0.25)]).unwrap();
        for text in ["Faces", "worn", "none", "12", "0.250"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} is not in {svg}");
        }
        let alone = bars("Faces", &[("alone".into(), 3.0)]).unwrap();
        assert!(alone.contains("\nalone\n"), "{alone}");
        assert!(bars("Nothing", &[]).unwrap().ends_with("</svg>\n"));
    }

    #[test]
    fn a_matrix_shows_every_count() {
        let names = ["a", "b"].map(String::from);
        let svg = matrix("Confusion", &names, &[&[7, 0], &[3, 41]]).unwrap();
        let shown = |text: &str| svg.matches(&format!("\n{text}\n")).count();
        assert_eq!(["7", "3", "41", "b (1)"].map(shown), [1; 4], "{svg}");
        // Of zeros, only the first column's number.
        assert_eq!(shown("0"), 1);
    }

    #[test]
    fn curves_and_histograms_are_drawn_even_of_one_point() {
        let svg = curves("F1", "epoch", &[("one".into(), vec![(1.0, 0.5)]), ("two".into(), vec![])]).unwrap();
        assert!(svg.contains("\none\n") && svg.contains("\ntwo\n"));
        assert!(histogram("Age", "years", &[(30, 5), (60, 2)]).unwrap().contains("years"));
    }
}

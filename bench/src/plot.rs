//! A small SVG of horizontal bars: groups of labelled values in, text out. Readable on light and on dark pages.

use std::fmt::Write as _;

/// Bars of one chart: label and value.
pub(crate) type Bars = Vec<(String, f64)>;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 250.0;
const ROW: f64 = 20.0;

/// Draws each group under its title, all groups to a scale of their own. The first bar of a group stands out: it is ours.
pub(crate) fn bars(title: &str, groups: &[(String, Bars)]) -> String {
    let rows: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    #[allow(clippy::cast_precision_loss, reason = "a plot has few rows")]
    let height = 44.0 + rows as f64 * ROW + groups.len() as f64 * 34.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
        escaped(title)
    );
    let mut y = 44.0;
    for (name, bars) in groups {
        y += 20.0;
        let _: std::fmt::Result = writeln!(out, "<text x=\"12\" y=\"{y}\" font-weight=\"bold\" fill=\"#444\">{}</text>", escaped(name));
        y += 8.0;
        let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (index, (label, value)) in bars.iter().enumerate() {
            let length = (value / most * (WIDTH - LEFT - 80.0)).max(1.0);
            let colour = if index == 0 { "#c2410c" } else { "#94a3b8" };
            let _: std::fmt::Result = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#222\">{}</text><rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" fill=\"#222\">{value:.1}</text>",
                LEFT - 8.0,
                y + 13.0,
                escaped(label),
                ROW - 4.0,
                LEFT + length + 6.0,
                y + 13.0
            );
            y += ROW;
        }
        y += 6.0;
    }
    out.push_str("</svg>\n");
    out
}

/// `text` as it may stand in XML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_every_bar_is_there() {
        let svg = bars("a < b", &[("x & y".to_owned(), vec![("one".to_owned(), 1.0), ("two".to_owned(), 2.0)])]);
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"));
        assert_eq!(svg.matches("<rect").count(), 3);
    }
}

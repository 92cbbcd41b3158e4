//! Questions made by chance, of types that go together. They leave out what has more than one right answer: which of equals `topk` takes, and
//! comparisons of what rounding decides.

pub(crate) struct Questions(fastrand::Rng);

impl Questions {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self(random)
    }

    pub(crate) fn next(&mut self) -> String {
        if self.0.u8(0..12) == 0 { self.number(2) } else { self.vector(3) }
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.0.usize(0..of.len())]
    }

    fn matchers(&mut self) -> String {
        let all =
            ["app=\"a\"", "app!=\"b\"", "app=~\"a.*\"", "app!~\"a|b\"", "code=\"200\"", "code=~\"4..|5..\"", "none=\"\"", "le!=\"+Inf\""];
        let count = self.0.usize(0..3);
        let chosen: Vec<&str> = (0..count).map(|_| self.one(&all)).collect();
        if chosen.is_empty() { String::new() } else { format!("{{{}}}", chosen.join(",")) }
    }

    fn offset(&mut self) -> String {
        if self.0.u8(0..5) == 0 { format!(" offset {}", self.one(&["30s", "5m", "-1m", "1h"])) } else { String::new() }
    }

    fn selector(&mut self) -> String {
        let name = self.one(&["calls_total", "load", "took_bucket", "took_sum", "about", "none"]);
        format!("{name}{}", self.matchers())
    }

    fn instant(&mut self) -> String {
        let (selector, offset) = (self.selector(), self.offset());
        format!("{selector}{offset}")
    }

    fn range(&mut self) -> String {
        let (selector, range, offset) = (self.selector(), self.one(&["15s", "1m", "5m", "17m"]), self.offset());
        match self.0.u8(0..6) {
            0 => format!("{selector}[{range}:{}]{offset}", self.one(&["10s", "35s", "1m"])),
            _ => format!("{selector}[{range}]{offset}"),
        }
    }

    fn labels(&mut self) -> String {
        self.one(&["", "app", "code", "app, code", "app, le", "zone, none"]).to_owned()
    }

    fn constant(&mut self) -> String {
        self.one(&["0", "1", "-3.5", "100", "1e3", "0.25"]).to_owned()
    }

    fn number(&mut self, depth: u8) -> String {
        match self.0.u8(0..if depth == 0 { 2 } else { 6 }) {
            0 => self.constant(),
            1 => "time()".to_owned(),
            2 => format!("scalar({})", self.vector(depth - 1)),
            3 => format!("-({})", self.number(depth - 1)),
            _ => {
                let (left, right) = (self.number(depth - 1), self.number(depth - 1));
                format!("({left}) {} ({right})", self.one(&["+", "-", "*", "/"]))
            }
        }
    }

    fn vector(&mut self, depth: u8) -> String {
        if depth == 0 {
            return self.instant();
        }
        match self.0.u8(0..14) {
            0 => self.instant(),
            1 | 2 => {
                let range = self.range();
                format!("{}({range})", self.one(&["rate", "increase", "irate", "delta", "idelta", "resets", "changes"]))
            }
            3 => {
                let range = self.range();
                format!("{}_over_time({range})", self.one(&["avg", "sum", "min", "max", "count", "last", "present", "stddev"]))
            }
            4..=6 => {
                let (by, labels, inner) = (self.one(&["by", "without"]), self.labels(), self.vector(depth - 1));
                let aggregator = self.one(&["sum", "avg", "min", "max", "count", "group", "stddev"]);
                format!("{aggregator} {by} ({labels}) ({inner})")
            }
            7 => {
                let (how, count, matchers) = (self.one(&["topk", "bottomk"]), self.0.u8(0..4), self.matchers());
                format!("{how}({count}, load{matchers})")
            }
            8 => {
                let (share, labels) = (self.one(&["0.5", "0.9", "0.99", "0", "1"]), self.one(&["le", "le, app"]));
                format!("histogram_quantile({share}, sum by ({labels}) (rate(took_bucket[{}])))", self.one(&["1m", "5m"]))
            }
            9 => {
                let (selector, number) = (self.instant(), self.constant());
                let (left, compares) = (self.0.bool(), self.one(&[">", "<", ">=", "<=", "==", "!=", "> bool", "== bool"]));
                if left { format!("{selector} {compares} {number}") } else { format!("{number} {compares} {selector}") }
            }
            10 => {
                let (left, right) = (self.vector(depth - 1), self.vector(depth - 1));
                let matching = self.one(&["", "on(app)", "ignoring(code)", "on(app, code)", "on()"]);
                format!("({left}) {} {matching} ({right})", self.one(&["and", "or", "unless"]))
            }
            11 => {
                let (left, right) = (self.vector(depth - 1), self.vector(depth - 1));
                let matching = self.one(&[
                    "",
                    "on(app)",
                    "ignoring(code)",
                    "on(app) group_left",
                    "ignoring(code) group_left",
                    "on(app) group_right(zone)",
                ]);
                format!("({left}) {} {matching} ({right})", self.one(&["+", "-", "*"]))
            }
            12 => {
                let (inner, number) = (self.vector(depth - 1), self.number(1));
                format!("({inner}) {} ({number})", self.one(&["+", "-", "*"]))
            }
            _ => {
                let inner = self.vector(depth - 1);
                match self.0.u8(0..5) {
                    0 => format!("abs({inner})"),
                    1 => format!("clamp_min({inner}, {})", self.constant()),
                    2 => format!("label_replace({inner}, \"new\", \"$1\", \"app\", \"(.).*\")"),
                    3 => format!("absent({inner})"),
                    _ => format!("-({inner})"),
                }
            }
        }
    }
}

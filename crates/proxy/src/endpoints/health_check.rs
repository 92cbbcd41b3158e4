//! When health checks decide: a pure function of their results. Who asks is `checks`.

use lorica_model::snapshot::HealthCheck;

/// The results of one endpoint's health checks.
#[derive(Debug)]
pub struct Results {
    /// What holds; none before the first result.
    well: Option<bool>,
    /// How many results in a row said otherwise.
    otherwise: u32,
}

impl Results {
    /// Those of an endpoint of which this holds so far; none: nothing is known.
    #[must_use]
    pub fn of(well: Option<bool>) -> Self {
        Self { well, otherwise: 0 }
    }

    /// Whether the endpoint is well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.well == Some(true)
    }

    /// A check has ended. Gives what holds from now on where that changed; the first result decides at once.
    pub fn add(&mut self, well: bool, check: &HealthCheck) -> Option<bool> {
        let threshold = if well { check.healthy_threshold } else { check.unhealthy_threshold };
        if self.well == Some(well) {
            self.otherwise = 0;
            return None;
        }
        self.otherwise += 1;
        if self.well.is_some() && self.otherwise < threshold {
            return None;
        }
        *self = Self { well: Some(well), otherwise: 0 };
        self.well
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lorica_model::snapshot::HealthQuestion;

    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let check = HealthCheck {
            ask: HealthQuestion::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        };
        for (results, expected) in
            [("+", "+"), ("-", "-"), ("-+", "-."), ("-++", "-.+"), ("-+-++", "-...+"), ("+--+---", "+.....-"), ("+---+-+++", "+..-...+.")]
        {
            let mut known = Results::of(None);
            let changes: String = results
                .chars()
                .map(|result| match known.add(result == '+', &check) {
                    None => '.',
                    Some(true) => '+',
                    Some(false) => '-',
                })
                .collect();
            assert_eq!(changes, expected, "{results}");
        }
    }
}

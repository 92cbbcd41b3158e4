//! The printer: alone writes to the terminal. Data goes to stdout, talk to stderr.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Writes to the terminal, with colours where it takes them.
pub struct Printer {
    out: AutoStream<Box<dyn Write>>,
    talk: AutoStream<Box<dyn Write>>,
    colours: bool,
}

impl Printer {
    /// The process's stdout and stderr.
    #[must_use]
    pub fn terminal() -> Self {
        let choice = AutoStream::choice(&io::stdout());
        let talk = AutoStream::choice(&io::stderr());
        Self {
            out: AutoStream::new(Box::new(io::stdout()), choice),
            talk: AutoStream::new(Box::new(io::stderr()), talk),
            colours: talk != ColorChoice::Never,
        }
    }

    /// Whether talk may have colours.
    #[must_use]
    pub fn colours(&self) -> bool {
        self.colours
    }

    /// Data: what a script may read.
    pub fn data(&mut self, text: &str) {
        write(&mut self.out, text);
    }

    /// Data that takes the place of what was shown before, on a terminal.
    pub fn screen(&mut self, text: &str) {
        // To the upper left, and away with what is below.
        write(&mut self.out, &format!("\x1b[H\x1b[J{text}"));
    }

    /// A word to the person at the terminal.
    pub fn note(&mut self, text: &str) {
        write(&mut self.talk, text);
    }

    /// Something is wrong, but goes on.
    pub fn warning(&mut self, text: &str) {
        self.labelled("warning", AnsiColor::Yellow, text);
    }

    /// The command failed.
    pub fn error(&mut self, text: &str) {
        self.labelled("error", AnsiColor::Red, text);
    }

    fn labelled(&mut self, label: &str, colour: AnsiColor, text: &str) {
        let style = Style::new().bold().fg_color(Some(colour.into()));
        write(&mut self.talk, &format!("{style}{label}:{style:#} {text}"));
    }
}

/// A reader that went away (`lorica get … | head`) is no failure of ours.
fn write(stream: &mut AutoStream<Box<dyn Write>>, text: &str) {
    let _: io::Result<()> = writeln!(stream, "{text}").and_then(|()| stream.flush());
}

//! `lorica completions`.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::printer::Printer;

pub(super) fn completions(arguments: &CompletionsArgs, printer: &mut Printer) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "lorica", &mut script);
    printer.data(String::from_utf8_lossy(&script).trim_end());
}

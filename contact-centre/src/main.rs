//! The contact centre as a program of its own: `contact-centre SERVICE [--flag value]…`.

use std::process::ExitCode;

fn main() -> ExitCode {
    contact_centre::main(std::env::args().skip(1))
}

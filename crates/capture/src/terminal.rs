//! The terminal's foreground process group: whose Ctrl-C and Ctrl-Z it is. The app's group gets it
//! for as long as the app runs, if `lorica run` had it. The caller keeps SIGTTOU blocked, as giving
//! it away from the background would else stop the caller.

use std::io::stdin;

use rustix::{
    process::Pid,
    termios::{isatty, tcgetpgrp, tcsetpgrp},
};

/// Standard input, if it is a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    own_group: Pid,
}

impl Terminal {
    pub(crate) fn of_stdin() -> Option<Self> {
        isatty(stdin()).then(|| Self { own_group: rustix::process::getpgrp() })
    }

    /// Whether `lorica run` is the shell's foreground job, and the app's group has not got it.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(stdin()).is_ok_and(|group| group == self.own_group)
    }

    /// Makes `group` the foreground group.
    pub(crate) fn give_to(&self, group: Pid) {
        if let Err(error) = tcsetpgrp(stdin(), group) {
            tracing::debug!(%error, "the terminal cannot be handed over");
        }
    }

    /// Takes it back from `group`, if that has it: another job may have been given it meanwhile.
    pub(crate) fn take_back_from(&self, group: Pid) {
        if tcgetpgrp(stdin()).is_ok_and(|foreground| foreground == group) {
            self.give_to(self.own_group);
        }
    }
}

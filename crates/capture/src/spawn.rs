//! Starting processes: our own two by re-executing this binary, and the app. What runs between
//! fork and exec is here; it makes system calls only, and allocates nothing.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use rustix::{
    io::{Errno, FdFlags},
    process::{Pid, Signal},
    thread::{CapabilitySet, CapabilitySets},
};

use crate::{
    CHANNEL_VARIABLE,
    channel::Channel,
    kernel::{self, SignalSet},
    namespace::Authority,
};

/// Which of our own processes to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Proxy,
    Helper,
}

/// Re-executes this binary with its end of a channel.
pub(crate) fn own(which: Own, arguments: &[OsString], channel: &Channel) -> io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).env(CHANNEL_VARIABLE, channel.as_raw_fd().to_string());
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    let death = match which {
        Own::Proxy => {
            // The app's input and output are not the proxy's, and the terminal's Ctrl-C is not
            // for it either.
            command.stdin(Stdio::null());
            command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
            command.process_group(0);
            Signal::KILL
        }
        // The helper takes it as the order to end the app and all below it.
        Own::Helper => Signal::TERM,
    };
    let number = channel.as_raw_fd();
    let parent = rustix::process::getpid();
    // SAFETY: the closure makes four system calls and does not allocate; the descriptor is open,
    // as `channel` lives until the process was started.
    unsafe {
        command.pre_exec(move || {
            let channel = std::os::fd::BorrowedFd::borrow_raw(number);
            rustix::io::fcntl_setfd(channel, FdFlags::empty())?;
            if which == Own::Proxy {
                // Its log goes to the user's terminal, of which it is never the foreground.
                kernel::ignore_background_output();
            }
            die_with(parent, death)
        });
    }
    command.spawn().map(|child| Pid::from_child(&child))
}

/// Starts the app as leader of a process group of its own.
pub(crate) fn app(
    app: &[OsString],
    environment: &[(OsString, OsString)],
    foreground: bool,
    authority: Option<Authority>,
) -> io::Result<Pid> {
    let (program, arguments) = app.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    kernel::close_all_on_exec();
    let mut command = Command::new(program);
    command.args(arguments).env_remove(CHANNEL_VARIABLE).envs(environment.iter().cloned());
    command.process_group(0);
    let parent = rustix::process::getpid();
    let stopping = SignalSet::of(&[libc::SIGTTOU]);
    let nothing = SignalSet::of(&[]);
    // SAFETY: the closure makes system calls on values prepared before the fork, and does not
    // allocate. The helper has one thread.
    unsafe {
        command.pre_exec(move || {
            if foreground {
                // From the background, where a new group is, this would stop it.
                stopping.block()?;
                let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
            }
            if let Some(authority) = authority {
                confine(authority)?;
            }
            die_with(parent, Signal::KILL)?;
            nothing.install()
        });
    }
    command.spawn().map(|child| Pid::from_child(&child))
}

/// Asks for a signal when the parent dies, unless it has died already.
fn die_with(parent: Pid, signal: Signal) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
}

/// Gives up what the app could undo its namespaces with.
fn confine(authority: Authority) -> io::Result<()> {
    let kept = match authority {
        Authority::OwnUserNamespace => CapabilitySet::empty(),
        Authority::Root => {
            let gone = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
            CapabilitySet::from_bits_retain(!gone.bits())
        }
    };
    for capability in 0..u64::BITS {
        if kept.bits() & (1 << capability) == 0 && !kernel::drop_from_bounding_set(capability)? {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let now = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: now.effective & kept, permitted: now.permitted & kept, inheritable: now.inheritable & kept },
    )?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

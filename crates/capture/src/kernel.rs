//! The few system calls that rustix has no safe form of, each behind a safe function: signal masks
//! and signalfd, prctl, close_range, unshare, inherited descriptors. All `unsafe` of this crate is
//! here, in `spawn` (what runs between fork and exec), and in `program_pages` (one madvise).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, Timespec},
    io::Errno,
    thread::UnshareFlags,
};

/// Waits for one of the descriptors, at most `patience` (none: for ever). A signal counts as a
/// wake-up with nothing ready.
pub(crate) fn poll(polled: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<usize> {
    let patience = patience.map(|patience| Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    });
    match rustix::event::poll(polled, patience.as_ref()) {
        Err(Errno::INTR) => Ok(0),
        polled => polled.map_err(io::Error::from),
    }
}

/// Takes over a descriptor that the parent process left open, made close-on-exec, if it is a Unix
/// socket.
pub(crate) fn inherited_channel(number: RawFd) -> Option<OwnedFd> {
    if number < 3 {
        return None;
    }
    // SAFETY: only used to ask whether the number is open, before anything is done with it; the
    // call cannot outlive this function.
    let asked = unsafe { BorrowedFd::borrow_raw(number) };
    let domain = rustix::net::sockopt::socket_domain(asked).ok()?;
    if domain != rustix::net::AddressFamily::UNIX {
        return None;
    }
    rustix::io::fcntl_setfd(asked, rustix::io::FdFlags::CLOEXEC).ok()?;
    rustix::io::ioctl_fionbio(asked, true).ok()?;
    // SAFETY: the number is open, and was passed on for this process to own: nobody else here
    // knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Leaves the namespaces named by `flags` for new ones.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: unsafe for the sake of CLONE_FILES alone, which would let descriptors differ
    // between threads; it is not among the flags used here.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Marks every descriptor above 2 close-on-exec, also those the user's shell left open.
pub(crate) fn close_all_on_exec() {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC reads no memory and closes nothing now.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return;
    }
    // Kernels before 5.11 lack the flag.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    for number in 3..limit.unwrap_or(65_536).min(65_536) {
        let Ok(number) = RawFd::try_from(number) else { return };
        // SAFETY: F_SETFD on a number that may not be open fails with EBADF and does nothing.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Removes one capability from the bounding set; false once the number is beyond the last one
/// that the kernel knows.
pub(crate) fn drop_from_bounding_set(capability: u32) -> io::Result<bool> {
    // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
    let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EINVAL) { Ok(false) } else { Err(error) }
}

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub(crate) fn of(numbers: &[i32]) -> Self {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset initializes what it is given and cannot fail; sigaddset then works
        // on an initialized set, and leaves it alone if a number is no signal.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &number in numbers {
                libc::sigaddset(set.as_mut_ptr(), number);
            }
            Self(set.assume_init())
        }
    }

    /// Makes this the calling thread's mask. Async-signal-safe.
    pub(crate) fn install(&self) -> io::Result<()> {
        // SAFETY: both pointers are valid or null for the length of the call.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// Adds this to the calling thread's mask and returns what it was. Async-signal-safe.
    pub(crate) fn block(&self) -> io::Result<Self> {
        let mut before = std::mem::MaybeUninit::uninit();
        // SAFETY: both pointers are valid for the length of the call, which writes `before` when
        // it succeeds.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &self.0, before.as_mut_ptr()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the call succeeded, so it wrote the old mask.
        Ok(Self(unsafe { before.assume_init() }))
    }
}

/// Signals read from a descriptor instead of interrupting; the mask is put back when dropped.
pub(crate) struct Signals {
    descriptor: OwnedFd,
    before: SignalSet,
}

impl Signals {
    /// Blocks `read` and `held` and offers `read` on a descriptor. A signal that was ignored when
    /// the process started (nohup, a background job) stays so.
    pub(crate) fn block(read: &[i32], held: &[i32]) -> io::Result<Self> {
        let read: Vec<i32> = read.iter().copied().filter(|&number| !is_ignored(number)).collect();
        let set = SignalSet::of(&read);
        let before = SignalSet::of(&[&read[..], held].concat()).block()?;
        // SAFETY: the set is initialized; -1 asks for a new descriptor.
        let number = unsafe { libc::signalfd(-1, &set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if number < 0 {
            let error = io::Error::last_os_error();
            let _ = before.install();
            return Err(error);
        }
        // SAFETY: the descriptor is new and nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self { descriptor, before })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.descriptor)
    }

    /// Stops this process as the terminal's Ctrl-Z would, and returns when it is continued. The
    /// kernel does nothing where no shell would continue it (an orphaned process group). The
    /// SIGCONT is taken, so that it is not acted on twice.
    pub(crate) fn stop_here(&self) {
        use rustix::process::{Signal, getpid, kill_process};
        let _ = kill_process(getpid(), Signal::TSTP);
        let stop = SignalSet::of(&[libc::SIGTSTP]);
        let go_on = SignalSet::of(&[libc::SIGCONT]);
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the sets and the time are initialized and live through the calls; what is not
        // asked for is null.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &stop.0, std::ptr::null_mut());
            libc::pthread_sigmask(libc::SIG_BLOCK, &stop.0, std::ptr::null_mut());
            libc::sigtimedwait(&go_on.0, std::ptr::null_mut(), &now);
        }
    }

    /// The next signal that came.
    pub(crate) fn next(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::read(&self.descriptor, &mut info).ok()?;
        // `ssi_signo`, a u32, is the first field.
        let number = info.get(..length)?.first_chunk::<4>()?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        while self.next().is_some() {}
        let _ = self.before.install();
    }
}

/// Whether a signal is ignored by this process.
fn is_ignored(number: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action the call only writes the present one.
    let asked = unsafe { libc::sigaction(number, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `sigaction`, and the call wrote it if it succeeded.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Makes SIGCHLD ordinary again, in case the parent ignored it: else children cannot be waited
/// for.
pub(crate) fn expect_children() {
    // SAFETY: SIG_DFL installs no code.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Lets this process, and what it executes, write to a terminal whose foreground is another's.
/// Async-signal-safe.
pub(crate) fn ignore_background_output() {
    // SAFETY: SIG_IGN installs no code.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

/// Lets many sockets share one source port as long as their peers differ.
pub(crate) fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live int whose length is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many bytes a TCP socket has taken to send that its peer's kernel has not acknowledged, those that it has not sent included. The number
/// stays as it was when the connection ends, by whichever side.
///
/// # Errors
/// When `socket` is none of TCP, or listens.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the pointer is to a live int, which is what TIOCOUTQ (SIOCOUTQ of a socket) writes.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(count).map_err(|_| io::ErrorKind::InvalidData.into())
}

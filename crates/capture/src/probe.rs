//! Whether this host allows capture, found by doing it: hosts let unshare succeed and then take the
//! capabilities away. A helper builds everything, says so, and ends; nothing is left.

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{
    channel::Channel,
    children,
    message::{FromHelper, InteriorSpec, Setup, ToHelper},
    missing::{Missing, Step},
    spawn::{self, Own},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Of the ranges that workloads have; nobody meets the probe's namespace.
const SOME_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 2);
const SOME_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Builds the namespaces in a child process that then ends. `helper_arguments` make this binary
/// call [`helper_main`](crate::helper_main).
///
/// # Errors
/// The first step that the host does not allow.
pub fn probe(helper_arguments: &[OsString]) -> Result<(), Missing> {
    let at_start = |error: io::Error| Missing::from_io(Step::Helper, "", &error);
    let (ours, theirs) = Channel::pair().map_err(at_start)?;
    let pid = spawn::own(Own::Helper, helper_arguments, &theirs).map_err(at_start)?;
    drop(theirs);
    let setup = Setup {
        app: Vec::new(),
        environment: Vec::new(),
        interior: Some(InteriorSpec {
            virtual_v4: SOME_V4,
            virtual_v6: Some(SOME_V6),
            host_ports: Vec::new(),
            masked_directories: Vec::new(),
            outbound_sockets: 1,
        }),
        app_ports: Vec::new(),
        kill_grace_ms: 0,
        probe: true,
    };
    let answer = ours.send(&ToHelper::Setup(Box::new(setup)), &[]).and_then(|()| ours.receive::<FromHelper>(PATIENCE));
    drop(ours);
    let how = children::end(pid, Duration::from_secs(1));
    match answer {
        Ok((FromHelper::Ready { .. }, _)) => Ok(()),
        Ok((FromHelper::Missing(missing), _)) => Err(missing),
        Ok((FromHelper::Failed { message }, _)) => Err(at_start(io::Error::other(message))),
        Ok(_) => Err(at_start(io::Error::other("an unexpected answer"))),
        Err(error) => Err(Missing::from_io(Step::Helper, how, &error)),
    }
}

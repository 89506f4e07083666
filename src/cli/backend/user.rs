//! Becoming another user (`-u`).

use std::fs;

use anyhow::Context;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// Where the system's users are listed.
const PASSWD: &str = "/etc/passwd";

/// Becomes the user of that name or number, if this is root's process; else does
/// nothing, as memcached. Threads started later are that user's too, those started
/// before are not: call it first.
///
/// # Errors
///
/// If there is no such user, or the system does not let it be.
pub(super) fn become_user(name: &str) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let passwd = fs::read_to_string(PASSWD).context("cannot look users up")?;
    let (uid, gid) = find(&passwd, name).with_context(|| format!("there is no user {name}"))?;
    set_thread_groups(&[])?;
    set_thread_gid(gid)?;
    set_thread_uid(uid).with_context(|| format!("cannot become {name}"))?;
    Ok(())
}

/// The numbers of a user, by name or number.
fn find(passwd: &str, name: &str) -> Option<(Uid, Gid)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (user, _, uid, gid) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let is_meant = user == name || uid == name;
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        is_meant.then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nmc:x:7:8::/:\n";
        let ids = |name| find(passwd, name).map(|(uid, gid)| (uid.as_raw(), gid.as_raw()));
        assert_eq!(ids("mc"), Some((7, 8)));
        assert_eq!(ids("0"), Some((0, 0)));
        assert_eq!(ids("nobody-here"), None);
    }
}

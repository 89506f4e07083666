//! What the process takes of the system before it serves, in an order that lets root
//! become another user (`-u`).

use std::path::Path;

use anyhow::Context;
use ketch::net::listener::{Address, Options};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use super::pidfile::PidFile;
use super::sockets::{Sockets, bind_admin};
use super::{Args, Plan, lock, user};
use crate::cli::descriptors::{self, Others};

/// What it has then.
#[derive(Debug)]
pub(super) struct Ground {
    /// Where clients connect.
    pub(super) sockets: Sockets,
    /// Where operators do.
    pub(super) admin: Option<TcpListener>,
    /// How many clients there is room for.
    pub(super) room: usize,
    /// The file with the number of the process.
    pub(super) pid_file: Option<PidFile>,
}

impl Ground {
    /// Takes what root may have, becomes the other user, and takes what is to be that
    /// user's.
    ///
    /// # Errors
    ///
    /// If something cannot be had.
    pub(super) async fn take(args: &Args, plan: &Plan) -> anyhow::Result<Self> {
        if args.enable_coredumps {
            raise_core_limit();
        }
        let options = Options {
            mode: Some(args.unix_mask),
            backlog: args.listen_backlog,
            ..Options::default()
        };
        let listen = plan.listen.iter().cloned();
        let (unix, tcp): (Vec<_>, Vec<_>) =
            listen.partition(|listen| matches!(listen.address, Address::Unix(_)));
        let mut sockets = Sockets::default();
        // Ports below 1024 may be root's.
        sockets.bind(&tcp, options)?;
        let admin = match &plan.admin {
            Some((host, port)) => Some(bind_admin(host, *port).await?),
            None => None,
        };
        let others = Others {
            workers: usize::from(args.threads),
            listeners: sockets.listeners.len() + unix.len(),
            has_admin: admin.is_some(),
            more: 0,
        };
        let room = descriptors::room_for(usize::try_from(args.conn_limit)?, others);
        // The folder need not be the other user's.
        let unwritten = |path: &Path| format!("cannot write {}", path.display());
        let pid_file = match &args.pidfile {
            Some(path) => Some(PidFile::open(path).with_context(|| unwritten(path))?),
            None => None,
        };
        if args.lock_memory {
            lock::raise_limit();
        }
        if let Some(user) = &args.user {
            user::become_user(user)?;
        }
        if args.lock_memory {
            lock::lock_memory(plan.store.memory_bytes, plan.store.threads);
        }
        // Only its owner may connect, with the permissions that it has by default.
        sockets.bind(&unix, options)?;
        if let (Some(file), Some(path)) = (&pid_file, &args.pidfile) {
            file.write().with_context(|| unwritten(path))?;
        }
        Ok(Self {
            sockets,
            admin,
            room,
            pid_file,
        })
    }
}

fn raise_core_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Core, raised) {
        tracing::warn!(%error, "-r: the limit of core files cannot be raised");
    }
}

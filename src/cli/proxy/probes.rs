//! Who looks after servers that are ejected.

use std::sync::Arc;

use ketch::pool::{Server, probe, slow};
use ketch::proxy::Layout;
use tokio::task::JoinHandle;

/// One task for each server of the configuration in force.
#[derive(Debug, Default)]
pub(super) struct Probes {
    tasks: Vec<(Arc<Server>, JoinHandle<()>)>,
    /// One for each pool whose servers are compared.
    comparing: Vec<JoinHandle<()>>,
}

impl Probes {
    /// Looks after the servers of `layout` and no others. Those looked after
    /// already are not disturbed.
    pub(super) fn look_after(&mut self, layout: &Layout) {
        let servers = layout.servers();
        self.tasks.retain(|(known, task)| {
            let stays = servers.iter().any(|server| Arc::ptr_eq(server, known));
            if !stays {
                task.abort();
            }
            stays
        });
        for server in servers {
            if !self
                .tasks
                .iter()
                .any(|(known, _)| Arc::ptr_eq(known, &server))
            {
                let task = tokio::spawn(probe::watch_over(Arc::clone(&server)));
                self.tasks.push((server, task));
            }
        }
        self.compare(layout);
    }

    fn compare(&mut self, layout: &Layout) {
        self.comparing.drain(..).for_each(|task| task.abort());
        for pool in &layout.pools {
            let servers = pool.remote_servers();
            let times = servers
                .first()
                .and_then(|server| server.settings.slow_after);
            if let Some(times) = times {
                let task = tokio::spawn(slow::compare(servers, times));
                self.comparing.push(task);
            }
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|(_, task)| task.abort());
        self.comparing.iter().for_each(JoinHandle::abort);
    }
}

//! Who looks after servers that are ejected.

use std::sync::Arc;

use ketch::pool::{Server, probe};
use tokio::task::JoinHandle;

/// One task for each server of the configuration in force.
#[derive(Debug, Default)]
pub(super) struct Probes {
    tasks: Vec<(Arc<Server>, JoinHandle<()>)>,
}

impl Probes {
    /// Looks after these servers and no others. Those looked after already are
    /// not disturbed.
    pub(super) fn look_after(&mut self, servers: Vec<Arc<Server>>) {
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
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|(_, task)| task.abort());
    }
}

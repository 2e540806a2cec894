//! One resource on this node: whether it can be had, and what a container is given of it.

use std::path::PathBuf;

use crate::handout::Handout;
use crate::node::Node;
use crate::node_copies::{Copied, NodeCopies};
use crate::resource::Resource;
use crate::v1beta1::{ContainerAllocateResponse, Device};

#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) resource: Resource,
    /// Before the resource's name.
    pub(crate) domain: String,
    /// How many devices there are.
    pub(crate) count: u16,
    /// The host's /dev, as it is called here.
    pub(crate) dev: PathBuf,
    /// None where containers are to be given the host's nodes alone.
    pub(crate) copies: Option<NodeCopies>,
}

impl Offer {
    /// As the kubelet and containers know it.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.domain, self.resource.name)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dev.join(self.resource.node)
    }

    pub(crate) fn look(&self) -> Node {
        Node::look(&self.path())
    }

    pub(crate) fn devices(&self, healthy: bool) -> Vec<Device> {
        self.resource.devices(self.count, healthy)
    }

    /// The copy of this node where one is needed, and why it is not as it should be.
    pub(crate) fn prepare(&self, node: Node) -> (Copied, Option<String>) {
        match (node, &self.copies) {
            (Node::Device(device), Some(copies)) if !device.is_open_to_all() => {
                copies.handout(self.resource.name, device)
            }
            _ => (Copied::No, None),
        }
    }

    /// For each container; None where there is no device at this moment.
    pub(crate) fn answer(&self) -> Option<ContainerAllocateResponse> {
        let node = self.look();
        if !node.is_usable() {
            return None;
        }
        let (copied, _) = self.prepare(node);
        let handout: Handout<'_> = copied.handout();
        Some(handout.answer(self.resource.name, self.resource.node))
    }
}

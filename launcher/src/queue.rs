//! One queue for everything that happens to a guest, and a way for each module to send its own kind of event into it without
//! knowing the others.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;

type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends events of one kind into a queue of more kinds. It waits while the queue is full, so that a peer that sends without
/// end is read no faster than it is understood.
pub(crate) struct Sink<T> {
    send: Arc<dyn Fn(T) -> Sending + Send + Sync>,
}

impl<T: Send + 'static> Sink<T> {
    pub(crate) fn new<E: From<T> + Send + 'static>(queue: mpsc::Sender<E>) -> Self {
        Self::with(queue, E::from)
    }

    /// `wrap` makes one of the queue's events of each.
    pub(crate) fn with<E: Send + 'static>(
        queue: mpsc::Sender<E>,
        wrap: impl Fn(T) -> E + Send + Sync + 'static,
    ) -> Self {
        let send = move |event: T| -> Sending {
            let (queue, event) = (queue.clone(), wrap(event));
            Box::pin(async move {
                // A queue without a reader is that of a guest that has ended.
                let _ = queue.send(event).await;
            })
        };
        Self { send: Arc::new(send) }
    }

    /// For another kind of event that becomes one of this kind.
    pub(crate) fn of<U: Into<T> + Send + 'static>(&self) -> Sink<U> {
        let send = Arc::clone(&self.send);
        Sink {
            send: Arc::new(move |event: U| send(event.into())),
        }
    }

    pub(crate) async fn send(&self, event: T) {
        (self.send)(event).await;
    }
}

impl<T> Clone for Sink<T> {
    fn clone(&self) -> Self {
        Self {
            send: Arc::clone(&self.send),
        }
    }
}

impl<T> std::fmt::Debug for Sink<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sink")
    }
}

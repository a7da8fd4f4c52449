//! Copying between a channel and a stream, both ways, each way ending for itself.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::channel::Channel;

/// Copies until both ways have ended, then closes the channel. A client that closes it gets no more, but all that it sent is still delivered.
pub(crate) async fn relay(
    channel: Channel,
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) {
    let to_stream = async {
        while let Some(data) = channel.read().await {
            if writer.write_all(&data).await.is_err() {
                channel.discard_input().await;
                return;
            }
        }
        // The other end sees end-of-file and may still answer.
        let _ = writer.shutdown().await;
    };
    let to_channel = async {
        tokio::select! {
            () = copy_to_channel(reader, &channel) => {}
            () = channel.closed() => {}
        }
        let _ = channel.eof().await;
    };
    tokio::select! {
        _ = async { tokio::join!(to_stream, to_channel) } => {}
        () = channel.lost() => {}
    }
    channel.close().await;
}

async fn copy_to_channel(mut reader: impl AsyncRead + Unpin, channel: &Channel) {
    let mut buffer = vec![0; channel.max_packet()];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if channel.write(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

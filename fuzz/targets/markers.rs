//! A session's log: what one side writes the other reads back whole, byte for byte and stream for stream, however the log is cut; and any bytes
//! at all are read the same in one piece and in many.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold_proto::markers::{Splitter, Stream, Writer};
use pinfold_proto::utf8::Decoder;

type Read = Vec<(Option<Stream>, u8)>;

fn read(log: &[u8], cut: usize) -> Read {
    let mut splitter = Splitter::default();
    let mut read = Read::new();
    let mut take =
        |stream: Option<Stream>, bytes: &[u8]| read.extend(bytes.iter().map(|byte| (stream, *byte)));
    for piece in log.chunks(cut.max(1)) {
        splitter.feed(piece, &mut take);
    }
    splitter.finish(&mut take);
    read
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let cut = usize::from(cut % 16) + 1;
    assert_eq!(read(data, cut), read(data, data.len()), "a cut changed what is read");

    let (mut writer, mut log, mut written) = (Writer::default(), Vec::new(), Read::new());
    for (number, chunk) in data.chunks(cut).enumerate() {
        let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
        writer.chunk(stream, chunk, &mut log);
        written.extend(chunk.iter().map(|byte| (Some(stream), *byte)));
    }
    assert_eq!(read(&log, cut), written, "what was written is not what is read");

    let mut decoder = Decoder::default();
    let mut text: String = data.chunks(cut).map(|piece| decoder.decode(piece)).collect();
    text.push_str(&decoder.flush());
    assert_eq!(text, String::from_utf8_lossy(data), "a cut changed the text");
});

#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <sys/socket.h>
#include <sys/uio.h>
#include <system_error>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/wire/frame.hpp>

namespace drover::inline v1::detail {

/// Frames over a non-blocking stream socket. Nothing here waits and nothing is locked: whoever owns the channel watches
/// the descriptor, reads when it is readable, flushes when it is writable and wants_write(). One thread at a time.
///
/// The two directions fail apart: after a failed write what the peer has sent can still be read to its end.
class Channel {
 public:
  enum class Received {
    some,         // there may be new frames: call next() until there is none
    nothing_yet,  // would have to wait
    closed        // the peer has closed its end, or is gone; everything it has sent has been received
  };

  /// The socket must be non-blocking. For the rest see FrameReader.
  Channel(UniqueFd socket, std::size_t max_body, std::size_t buffer_size = FrameReader::usual_buffer_size) noexcept
      : socket_(std::move(socket)), reader_(max_body, buffer_size) {}

  int fd() const noexcept { return socket_.get(); }

  /// See FrameWriter. After a failed write, frames are dropped.
  void queue(const FrameHeader& header, std::span<const std::byte> body = {}) {
    if (!write_error_) writer_.queue(header, body), ++gathered_;
  }
  void queue(const FrameHeader& header, FrameBody&& body) {
    if (!write_error_) writer_.queue(header, std::move(body)), ++gathered_;
  }

  /// So many frames leave together while their reader is at work on another core: it starts on them at once, and nobody
  /// waits until the other is through with all he has. On one core both take turns, and the more at a turn the better.
  static constexpr int frames_at_a_time = 12;

  /// Is it time for a flush()? Cores as in FrameHeader::core: this thread's, and where the reader was last seen.
  bool gathered_enough(std::uint16_t here, std::uint16_t reader) const noexcept {
    return gathered_ >= frames_at_a_time && here != reader && here != 0 && reader != 0;
  }

  /// Sends what is queued, in one system call as a rule. What the socket does not take now stays queued, which is not
  /// an error. Otherwise the error, EPIPE mostly; writing is over then, and every later flush() returns the same one.
  /// Never raises SIGPIPE.
  std::error_code flush() noexcept;

  /// Frames wait for the socket to become writable.
  bool wants_write() const noexcept { return !writer_.empty(); }

  /// Bytes queued.
  std::size_t pending() const noexcept { return writer_.pending(); }

  /// One recv(2). Throws std::system_error on errors that are the program's own (EBADF, ENOMEM).
  Received receive();

  /// See FrameReader::next(): frames that are here, without a system call.
  std::optional<Frame> next() { return reader_.next(); }

  FrameReader& reader() noexcept { return reader_; }

 private:
  UniqueFd socket_;
  FrameReader reader_;
  FrameWriter writer_;
  std::error_code write_error_;
  int gathered_ = 0;  // frames since the last flush()
};

inline std::error_code Channel::flush() noexcept {
  gathered_ = 0;
  while (!writer_.empty()) {
    iovec stretches[64];
    msghdr message{};
    message.msg_iov = stretches;
    message.msg_iovlen = writer_.gather(stretches, std::size(stretches));
    std::size_t offered = 0;
    for (std::size_t i = 0; i < message.msg_iovlen; ++i) offered += stretches[i].iov_len;
    const ssize_t sent = ::sendmsg(fd(), &message, MSG_NOSIGNAL);
    if (sent >= 0) {
      writer_.consumed(static_cast<std::size_t>(sent));
      if (static_cast<std::size_t>(sent) < offered) break;  // the socket is full; asking again would only tell so
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno != EINTR) {
      write_error_.assign(errno, std::system_category());
      writer_.clear();
    }
  }
  return write_error_;
}

inline Channel::Received Channel::receive() {
  const std::span<std::byte> room = reader_.prepare();
  for (;;) {
    const ssize_t received = ::recv(fd(), room.data(), room.size(), 0);
    if (received > 0) {
      reader_.commit(static_cast<std::size_t>(received));
      return Received::some;
    }
    if (received == 0 || errno == ECONNRESET) return Received::closed;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Received::nothing_yet;
    if (errno != EINTR) throw std::system_error(errno, std::system_category(), "recv");
  }
}

}  // namespace drover::inline v1::detail

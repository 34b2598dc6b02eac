#pragma once

#include <drover/detail/platform.hpp>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <system_error>
#include <utility>

#include <drover/error.hpp>
#include <drover/os/detail/descriptor_rights.hpp>
#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Frames over a non-blocking stream socket. Never waits and never locks: the owner watches the descriptor, reads when
/// it is readable, and flushes when it is writable and wants_write().
///
/// The two directions fail separately: after a failed write, everything that the peer has sent can still be read.
///
/// *Threads:* one at a time.
class Channel {
 public:
  enum class Received {
    some,         // there may be new frames: call next() until there is none
    nothing_yet,  // a read would have to wait
    closed        // the peer has closed its end or exited; everything it has sent has been received
  };

  /// The socket must be non-blocking. For `max_body` and `buffer_size` see FrameReader.
  Channel(UniqueFd socket, std::size_t max_body, std::size_t buffer_size = FrameReader::usual_buffer_size) noexcept
      : socket_(std::move(socket)), identity_(identity_of(socket_.get())), reader_(max_body, buffer_size) {}
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel() { close(); }

  /// Closes the socket, as the destructor does.
  void close() noexcept {
    if (!is_intact())
      (void)socket_.release();  // not ours to close
    else if (guarded_ && looks_for_descriptors_)
      close_without_descriptors(std::move(socket_));
    socket_.reset();
  }

  /// Marks the peer as untrusted: descriptors that it attaches are a protocol error, unless receive_descriptors() is
  /// on, and none of them is closed on the receiving thread.
  void distrust() noexcept {
    guarded_ = true;
    kernel_refuses_ = refuse_descriptors(fd());
    looks_for_descriptors_ = !kernel_refuses_;
    reader_.check_descriptors();
  }
  /// Receives the descriptors of frames from now on, or not any more. Receiving takes longer meanwhile. Without this
  /// those of a trusted peer are closed.
  void receive_descriptors(bool on) noexcept;
  /// False once other code of the program has closed the descriptor; its number may be another file's by now. The
  /// channel does not write to or read from such a file.
  bool is_intact() const noexcept { return identity_ && identity_of(fd()) == identity_; }

  int fd() const noexcept { return socket_.get(); }

  /// Queues a frame, see FrameWriter. After a failed write, frames are dropped.
  void queue(const FrameHeader& header, std::span<const std::byte> body = {}) {
    if (!write_error_) writer_.queue(header, body), ++gathered_;
  }
  void queue(const FrameHeader& header, FrameBody& body) {
    if (!write_error_) writer_.queue(header, body), ++gathered_;
  }

  /// The same for a body that is encoded again and again: one of less than 128 KiB is copied, and keeps its memory.
  void queue_kept(const FrameHeader& header, FrameBody& body) {
    if (body.pieces().empty() && body.size() < 2 * worth_moving)
      queue(header, body.buffer().view());
    else
      queue(header, body);
  }

  /// Flush after this many frames if their reader runs on another core: it can start on them while we continue. On one
  /// core both sides take turns, so larger batches are better.
  static constexpr int frames_at_a_time = 12;

  /// True if it is time for a flush(). Cores as in FrameHeader::core: `here` is this thread's, `reader` the one where
  /// the reader was last seen.
  bool gathered_enough(std::uint16_t here, std::uint16_t reader) const noexcept {
    return gathered_ >= frames_at_a_time && here != reader && here != 0 && reader != 0;
  }

  /// Sends the queued frames, usually in one system call. Bytes that the socket does not take now stay queued, which is
  /// not an error; nor is a kernel that is short of memory, see short_of_memory(). Never raises SIGPIPE.
  /// *Errors:* returned, usually EPIPE. Writing is over then, and every later flush() returns the same error.
  std::error_code flush() noexcept;
  /// Drops the queued frames, the one that is partly written included. Nothing may be queued afterwards.
  void discard_unsent() noexcept { writer_.clear(); }
  /// The same, and every later flush() returns `why`.
  void drop_unsent(std::errc why) noexcept {
    write_error_ = std::make_error_code(why);
    writer_.clear();
  }
  /// The kernel had no memory for the last flush() or receive() (ENOBUFS, ENOMEM). Nothing is lost: call it again after
  /// `memory_pause`. Waiting for the socket would spin, because it may be ready all the time.
  bool short_of_memory() const noexcept { return short_of_memory_; }
  static constexpr std::chrono::milliseconds memory_pause{10};

  /// True if frames wait for the socket to become writable.
  bool wants_write() const noexcept { return !writer_.empty(); }

  /// A mark behind the frames that are queued now.
  std::uint64_t queued_until() const noexcept { return sent_ + writer_.pending(); }
  /// Everything before the mark has been given to the socket.
  bool has_sent(std::uint64_t mark) const noexcept { return sent_ >= mark; }

  /// Bytes queued.
  std::size_t pending() const noexcept { return writer_.pending(); }

  /// Calls recv(2) once.
  /// *Errors:* std::system_error if the program caused it (EBADF); Error with protocol_error for descriptors that are
  /// not received.
  Received receive();

  /// The next complete frame, without a system call, see FrameReader::next().
  std::optional<Frame> next() {
    if (!reader_.mid_frame() && !reader_.holds_descriptors()) return std::nullopt;  // usual after the first one
    return reader_.next();
  }

  FrameReader& reader() noexcept { return reader_; }

 private:
  struct Sent {
    ssize_t bytes;  // -1: see errno
    std::size_t offered;
  };
  Sent send_once() noexcept;
  Sent send_gathered() noexcept;
  ssize_t receive_into(std::span<std::byte> room);
  ssize_t receive_with_descriptors(std::span<std::byte> room);

  /// is_intact() as of 100 us ago at most, in a parent. The system call costs as much as a tenth of a call. Reuse of
  /// the number by another thread can come between the look and the use in any case.
  bool is_still_ours() noexcept {
    if (!guarded_) return true;
    const Clock::time_point now = Clock::now();
    if (now - looked_at_ < std::chrono::microseconds(100)) return true;
    if (!is_intact()) return false;
    looked_at_ = now;
    return true;
  }

  UniqueFd socket_;
  std::optional<FdIdentity> identity_;
  bool guarded_ = false;
  Clock::time_point looked_at_{};
  bool kernel_refuses_ = false;         // descriptors, unless receive_descriptors() is on
  bool receives_descriptors_ = false;   // that is on
  bool looks_for_descriptors_ = false;  // there may be some in the socket
  bool short_of_memory_ = false;
  FrameReader reader_;
  FrameWriter writer_;
  std::uint64_t sent_ = 0;  // bytes in all
  std::error_code write_error_;
  int gathered_ = 0;  // frames since the last flush()
};

inline Channel::Sent Channel::send_once() noexcept {
  if (const auto bytes = writer_.contiguous(); !bytes.empty()) [[likely]]
    return {::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT), bytes.size()};
  return send_gathered();
}

[[gnu::noinline]] inline Channel::Sent Channel::send_gathered() noexcept {
  iovec stretches[64];
  msghdr message{};
  message.msg_iov = stretches;
  message.msg_iovlen = writer_.gather(stretches, std::size(stretches));
  alignas(cmsghdr) char control[CMSG_SPACE(most_descriptors * sizeof(int))];
  if (const DescriptorList* const attached = writer_.descriptors())
    attach_descriptors(message, control, attached->view());
  std::size_t offered = 0;
  for (std::size_t i = 0; i < message.msg_iovlen; ++i) offered += stretches[i].iov_len;
  return {::sendmsg(fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT), offered};
}

inline std::error_code Channel::flush() noexcept {
  gathered_ = 0;
  short_of_memory_ = false;
  if (!writer_.empty() && !is_still_ours()) {
    write_error_ = std::make_error_code(std::errc::bad_file_descriptor);
    writer_.clear();
  }
  while (!writer_.empty()) {
    const auto [sent, offered] = send_once();
    if (sent >= 0) {
      writer_.consumed(static_cast<std::size_t>(sent));
      sent_ += static_cast<std::size_t>(sent);
      if (static_cast<std::size_t>(sent) < offered) break;  // the socket is full; another call would only report that
    } else if (errno == EAGAIN) {
      break;
    } else if (errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS) {  // the last one: descriptors in flight
      short_of_memory_ = true;
      break;
    } else if (errno != EINTR && !writer_.drop_descriptors()) {
      write_error_.assign(errno, std::system_category());
      writer_.clear();
    }
  }
  return write_error_;
}

inline void Channel::receive_descriptors(bool on) noexcept {
  if (!is_still_ours()) return;
  receives_descriptors_ = on;
  if (on) {
    looks_for_descriptors_ = true;
    reader_.check_descriptors();
    if (kernel_refuses_) permit_descriptors(fd());
  } else if (kernel_refuses_) {
    refuse_descriptors(fd());  // what is in the socket already stays there
  }
}

// MSG_DONTWAIT here and above: between is_intact() and the call the number may become a blocking socket's.
inline ssize_t Channel::receive_into(std::span<std::byte> room) {
  if (!looks_for_descriptors_) [[likely]]
    return ::recv(fd(), room.data(), room.size(), MSG_DONTWAIT);
  return receive_with_descriptors(room);
}

[[gnu::noinline]] inline ssize_t Channel::receive_with_descriptors(std::span<std::byte> room) {
  DescriptorList arrived(guarded_ ? DescriptorList::Close::elsewhere : DescriptorList::Close::here);
  const ReceivedMessage received = receive_message(fd(), room, MSG_DONTWAIT, &arrived);
  if (received.descriptors) {
    if (!receives_descriptors_) throw MalformedFrame("descriptors, which the protocol does not allow");
    reader_.add_descriptors(std::move(arrived));
  } else if (kernel_refuses_ && !receives_descriptors_ && received.bytes >= 0) {
    int unread = 1;
    if (::ioctl(fd(), FIONREAD, &unread) == 0 && unread == 0) looks_for_descriptors_ = false;
  }
  return received.bytes;
}

inline Channel::Received Channel::receive() {
  if (!is_still_ours()) throw_errno("the program has closed a socket", EBADF);
  const std::span<std::byte> room = reader_.prepare();
  short_of_memory_ = false;
  for (;;) {
    const ssize_t received = receive_into(room);
    if (received > 0) {
      reader_.commit(static_cast<std::size_t>(received));
      return Received::some;
    }
    if (received == 0 || errno == ECONNRESET) return Received::closed;
    if (errno == EAGAIN) return Received::nothing_yet;
    if (errno == ENOBUFS || errno == ENOMEM) {
      short_of_memory_ = true;
      return Received::nothing_yet;
    }
    if (errno != EINTR) throw std::system_error(errno, std::system_category(), "recv");
  }
}

}}}  // namespace drover::v1::detail

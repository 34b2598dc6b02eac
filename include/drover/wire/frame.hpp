#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <sys/uio.h>
#include <type_traits>
#include <variant>
#include <vector>

#include <drover/detail/config.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/buffer.hpp>

/// Frames: what travels on the sockets between a program and its workers. A frame is a header of 24 bytes and a body of
/// `size` bytes, in the byte order of the machine, since both ends are on one. The two classes do no system calls; they
/// turn bytes into frames and frames into bytes (channel.hpp adds the socket).
namespace drover { inline namespace v1 { namespace detail {

enum class FrameType : std::uint8_t {
  hello = 1,
  stop,
  stop_reply,
  cancel,
  status,
  status_reply,
  call,
  result,
  draining
};

/// FrameHeader::status of a RESULT.
enum class ResultStatus : std::uint8_t {
  ok,
  remote_error,
  unknown_routine,
  bad_arguments,
  cancelled,
  message_too_large
};

struct FrameHeader {
  std::uint32_t size = 0;  // of the body, in bytes
  FrameType type{};
  std::uint8_t status = 0;
  std::uint16_t core = 0;  // of a CALL or RESULT: where its sender runs, as current_core() has it; only a hint
  std::uint32_t slot = 0;
  std::uint32_t zero = 0;
  std::uint64_t id = 0;
};
static_assert(sizeof(FrameHeader) == 24 && std::is_trivially_copyable_v<FrameHeader>);

/// However small WorkerOptions::max_message_size is, the text of an error fits, and what drover itself has to say.
inline constexpr std::size_t least_max_body = 1024;
/// Of a frame on the control socket; the largest is the HELLO that names all routines.
inline constexpr std::size_t max_control_body = std::size_t{2} << 20;

struct Frame {
  FrameHeader header;
  std::span<const std::byte> body;
};

/// Cuts a stream of bytes into frames. Use: let something write into prepare(), commit() what it wrote, take frames
/// with next() until there is none, and so on. One thread at a time.
///
/// Small frames are read many at a time into one buffer that never grows. A body that does not fit there gets a buffer
/// of its own and is received straight into it.
class FrameReader {
 public:
  static constexpr std::size_t usual_buffer_size = 64 * 1024;

  /// Bodies of more than `max_body` bytes are refused. What is read at a time is at most `buffer_size`.
  explicit FrameReader(std::size_t max_body, std::size_t buffer_size = usual_buffer_size) noexcept
      : max_body_(max_body), buffer_size_(buffer_size) {}
  FrameReader(FrameReader&&) = default;
  FrameReader& operator=(FrameReader&&) = default;

  /// Room for the bytes that come next, never empty. Ends the validity of frames given out before.
  std::span<std::byte> prepare();

  /// The first `count` bytes of what prepare() offered have been written.
  void commit(std::size_t count) noexcept;

  /// The next frame, if it is whole; its body is valid until the next prepare(). Throws Error with protocol_error on a
  /// malformed header, before anything is allocated for its body; so does every later call.
  std::optional<Frame> next();

  /// Takes the body of the frame that next() has just returned out of the reader, so that it outlives the next
  /// prepare(). A large one is moved, a small one copied.
  ByteBuffer take_body();

  /// Bytes of a frame that is not whole yet are here: an end of the stream now cuts it off. Asked after next() returned
  /// nothing.
  bool mid_frame() const noexcept { return large_pending_ || begin_ != end_; }

 private:
  void check(const FrameHeader& header) const;

  std::size_t max_body_;
  std::size_t buffer_size_;
  ByteBuffer buffer_;  // used by its capacity; [begin_, end_) is not parsed yet
  std::size_t begin_ = 0;
  std::size_t end_ = 0;

  ByteBuffer large_;  // the body that is being received, or that was given out last
  FrameHeader large_header_;
  std::size_t large_received_ = 0;
  bool large_pending_ = false;
  std::span<const std::byte> last_body_;  // what next() gave out
};

/// Frames that wait to be written. Small ones are gathered into one stretch of memory, large bodies are kept where they
/// are. One thread at a time.
class FrameWriter {
 public:
  /// Copies the body; the header's size is set from it. The body must be under 4 GiB.
  void queue(FrameHeader header, std::span<const std::byte> body = {});

  /// Moves a large body in and leaves `body` empty; copies a small one and leaves it its capacity.
  void queue(FrameHeader header, ByteBuffer&& body);
  /// Copies the small pieces of the body and shares the large ones with it, so that the frame can be queued elsewhere
  /// once more.
  void queue(FrameHeader header, FrameBody& body);

  bool empty() const noexcept { return pending_ == 0; }

  /// Bytes that wait.
  std::size_t pending() const noexcept { return pending_; }

  /// Fills in where the bytes are that come next, at most `count` stretches; returns how many. Valid until queue() or
  /// consumed().
  std::size_t gather(iovec* stretches, std::size_t count) noexcept;

  /// The first `count` bytes have been written.
  void consumed(std::size_t count) noexcept;

  /// Forgets all of them.
  void clear() noexcept;

 private:
  struct Stretch {
    ByteBuffer buffer{};   // small frames side by side
    SharedBytes shared{};  // or a large piece of one

    std::span<const std::byte> view() const noexcept { return shared ? view_of(*shared) : buffer.view(); }
  };

  ByteBuffer& open_stretch();
  void make_room_for_stretches(std::size_t count);

  std::vector<Stretch> stretches_;  // those before head_ have been written
  std::size_t head_ = 0;
  std::size_t written_ = 0;  // of the stretch at head_
  std::size_t pending_ = 0;
  ByteBuffer spare_;  // the last stretch that was written, to be used again
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/frame.ipp>
#endif

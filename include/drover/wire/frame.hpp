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
#include <drover/wire/cancel_reason.hpp>

/// Frames: the messages on the sockets between a parent and its workers. A frame is a header of 24 bytes and a body of
/// `size` bytes, in the byte order of the machine, since both ends are on one machine. FrameReader and FrameWriter do
/// no system calls: they turn bytes into frames and frames into bytes. channel.hpp adds the socket.
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
  draining,
  recall,
  recalled,
  start_failed,
  take_slot,
  stalled,
  item,
  latest,
  credit,
  finish
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
/// In the status of a CALL that was sent ahead. It begins when all calls before it have ended and the socket has taken
/// their RESULTs, so that the parent knows after a crash which call had begun. RECALL asks for it back: if it has not
/// begun, it never will, and RECALLED says so. Otherwise its RESULT follows.
inline constexpr std::uint8_t ahead_flag = 0x80;
/// In the status of a CALL: the parent may send calls ahead, and wants to know whether the routine is quick.
inline constexpr std::uint8_t wants_quick_flag = 0x40;
/// In the status of a CALL: CallFacts precede the name of the routine in its body.
inline constexpr std::uint8_t facts_flag = 0x20;
/// In the status of a CALL: its caller takes items, and sends some. See StreamCredit.
inline constexpr std::uint8_t items_out_flag = 0x10;
inline constexpr std::uint8_t items_in_flag = 0x08;
/// In the status of the RESULT of a CALL with wants_quick_flag: the routine took less time than it takes to sleep and
/// to wake up.
inline constexpr std::uint8_t quick_flag = 0x80;

struct FrameHeader {
  std::uint32_t size = 0;  // of the body, in bytes
  FrameType type{};
  std::uint8_t status = 0;
  std::uint16_t core = 0;  // of a CALL or RESULT: the sender's core, see current_core(); only a hint
  std::uint32_t slot = 0;
  std::uint32_t attempt = 0;  // of a CALL: how many attempts at it were before; otherwise 0
  std::uint64_t id = 0;
};
static_assert(sizeof(FrameHeader) == 24 && std::is_trivially_copyable_v<FrameHeader>);

/// The text of an error and drover's own messages fit, however small WorkerOptions::max_message_size is.
inline constexpr std::size_t least_max_body = 1024;
/// Bound on the body of a frame on the control socket; the largest is the HELLO, which names all routines.
inline constexpr std::size_t max_control_body = std::size_t{2} << 20;

struct Frame {
  FrameHeader header;
  std::span<const std::byte> body;
};

/// Splits a stream of bytes into frames. Fill the room from prepare(), commit() the bytes written, take frames with
/// next() until there is none, and repeat.
///
/// Small frames are read many at a time into one buffer that never grows. A body that does not fit there is received
/// directly into a buffer of its own.
///
/// *Threads:* one at a time.
class FrameReader {
 public:
  static constexpr std::size_t usual_buffer_size = 64 * 1024;
  /// The memory of a body that does not fit there, and is not larger than this, is used for the next one.
  static constexpr std::size_t most_kept = 2 * worth_moving;

  /// Refuses bodies of more than `max_body` bytes. Reads at most `buffer_size` bytes at a time.
  explicit FrameReader(std::size_t max_body, std::size_t buffer_size = usual_buffer_size) noexcept
      : max_body_(max_body), buffer_size_(buffer_size) {}
  FrameReader(FrameReader&&) = default;
  FrameReader& operator=(FrameReader&&) = default;

  /// Room for the next bytes, never empty. Invalidates the frames returned before.
  std::span<std::byte> prepare();

  /// Adds the first `count` bytes of the room from prepare(), which have been written.
  void commit(std::size_t count) noexcept;

  /// The next frame, if it is complete.
  /// *Errors:* Error with protocol_error for a malformed header, before anything is allocated for its body; every later
  /// call throws it too.
  /// *Lifetime:* the body is valid until the next prepare().
  std::optional<Frame> next();

  /// Takes the body of the frame that next() has just returned out of the reader, so that the body outlives the next
  /// prepare(). A large body is moved, a small one copied.
  ByteBuffer take_body();

  /// True if the reader has a part of a frame, which an end of the stream would cut off. Call it after next() has
  /// returned nothing.
  bool mid_frame() const noexcept { return large_pending_ || begin_ != end_; }

 private:
  void check(const FrameHeader& header) const;

  std::size_t max_body_;
  std::size_t buffer_size_;
  ByteBuffer buffer_;  // only its capacity is used; [begin_, end_) is not parsed yet
  std::size_t begin_ = 0;
  std::size_t end_ = 0;

  ByteBuffer large_;  // the body that is being received, or that was returned last
  FrameHeader large_header_;
  std::size_t large_received_ = 0;
  bool large_pending_ = false;
  std::span<const std::byte> last_body_;  // the last body that next() returned
};

/// Frames that wait to be written. Small frames are gathered into one stretch of memory; large bodies stay where they
/// are.
/// *Threads:* one at a time.
class FrameWriter {
 public:
  /// Copies the body and sets the header's size from it.
  /// *Errors:* std::length_error for a body of 4 GiB or more.
  void queue(FrameHeader header, std::span<const std::byte> body = {});

  /// Moves a large body and leaves `body` empty; copies a small one and leaves `body` its capacity.
  void queue(FrameHeader header, ByteBuffer&& body);
  /// Copies the small pieces of the body and shares the large ones with it, so that the body can be queued elsewhere
  /// too.
  void queue(FrameHeader header, FrameBody& body);

  bool empty() const noexcept { return pending_ == 0; }

  /// Bytes that wait to be written.
  std::size_t pending() const noexcept { return pending_; }

  /// All bytes that wait, if they are contiguous, as they usually are. Otherwise empty.
  /// *Lifetime:* valid until queue() or consumed().
  std::span<const std::byte> contiguous() const noexcept {
    if (stretches_.size() != head_ + 1) return {};
    return stretches_[head_].view().subspan(written_);
  }
  /// Fills in where the next bytes are, as at most `count` stretches, and returns how many.
  /// *Lifetime:* valid until queue() or consumed().
  std::size_t gather(iovec* stretches, std::size_t count) noexcept;

  /// Removes the first `count` bytes, which have been written.
  void consumed(std::size_t count) noexcept;

  /// Discards all frames.
  void clear() noexcept;

 private:
  struct Stretch {
    ByteBuffer buffer{};   // small frames, contiguous
    SharedBytes shared{};  // or a large piece of a frame

    std::span<const std::byte> view() const noexcept { return shared ? view_of(*shared) : buffer.view(); }
  };

  ByteBuffer& open_stretch();
  void make_room_for_stretches(std::size_t count);

  std::vector<Stretch> stretches_;  // the stretches before head_ have been written
  std::size_t head_ = 0;
  std::size_t written_ = 0;  // bytes of the stretch at head_
  std::size_t pending_ = 0;
  ByteBuffer spare_;  // the buffer of a written stretch, to be used again
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/frame.ipp>
#endif

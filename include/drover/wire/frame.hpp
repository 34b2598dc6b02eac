#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <sys/uio.h>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <drover/detail/config.hpp>
#include <drover/error.hpp>
#include <drover/os/detail/descriptor_list.hpp>
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
  finish,
  begun
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
/// In the status of a CALL: the caller takes descriptors. Otherwise the RESULT must not have any.
inline constexpr std::uint8_t takes_descriptors_flag = 0x04;
/// In the status of a CALL: BEGUN is to say when its routine begins. For CallOptions::run_for in a worker that may have
/// several calls, where a plain routine waits for those before it.
inline constexpr std::uint8_t wants_begun_flag = 0x02;
/// In the status of the RESULT of a CALL with wants_quick_flag: the routine took less time than it takes to sleep and
/// to wake up.
inline constexpr std::uint8_t quick_flag = 0x80;

struct FrameHeader {
  std::uint32_t size = 0;  // of the body, in bytes
  FrameType type{};
  std::uint8_t status = 0;
  std::uint16_t core = 0;  // of a CALL or RESULT: the sender's core, see current_core(); only a hint
  std::uint32_t slot = 0;
  std::uint16_t attempt = 0;      // of a CALL: how many attempts at it were before; otherwise 0
  std::uint16_t descriptors = 0;  // of a CALL or RESULT: how many are attached to its first byte; otherwise 0
  std::uint64_t id = 0;
};
static_assert(sizeof(FrameHeader) == 24 && std::is_trivially_copyable_v<FrameHeader>);

/// The text of an error and drover's own messages fit, however small WorkerOptions::max_message_size is.
inline constexpr std::size_t least_max_body = 1024;
/// Bound on the body of a frame on the control socket; the largest is the HELLO, which names all routines.
inline constexpr std::size_t max_control_body = std::size_t{2} << 20;

/// The peer sent bytes that are no valid frame. Whoever knows the peer adds its name.
class MalformedFrame : public Error {
 public:
  explicit MalformedFrame(const std::string& why) : Error(Errc::protocol_error, why), why_(why) {}

  /// Without the text of the code.
  const char* why() const noexcept { return why_.what(); }

 private:
  std::runtime_error why_;  // its copies do not throw
};

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

  /// Descriptors have arrived with the bytes that are committed next: those of the one frame with descriptors that
  /// begins there. The end of the frame before it, which has some as well, may be in front of it.
  void add_descriptors(DescriptorList descriptors) {
    arrived_descriptors_.push_back(std::move(descriptors));
    holds_descriptors_ = true;
  }
  /// From now on a frame without the descriptors that it names, and descriptors without a frame, are a protocol_error
  /// of next(). Before, a receiver takes none, and what a frame says of them is ignored.
  void check_descriptors() noexcept { checks_descriptors_ = true; }
  /// The descriptors of the frame that next() has just returned. What is left of them at the next next() is closed.
  DescriptorList& descriptors() noexcept { return last_descriptors_; }
  /// Some are of the last frame, or wait for their frame.
  bool holds_descriptors() const noexcept { return holds_descriptors_; }

  /// Takes the body of the frame that next() has just returned out of the reader, so that the body outlives the next
  /// prepare(). A large body is moved, a small one copied.
  ByteBuffer take_body();

  /// True if the reader has a part of a frame, which an end of the stream would cut off. Call it after next() has
  /// returned nothing.
  bool mid_frame() const noexcept { return large_pending_ || begin_ != end_; }

 private:
  void check(const FrameHeader& header) const;
  std::optional<Frame> next_frame();
  void match_descriptors(const std::optional<Frame>& frame);
  void check_arrived(std::size_t wanted) const;

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

  std::vector<DescriptorList> arrived_descriptors_;  // of frames that next() has not returned yet, in their order
  DescriptorList last_descriptors_;                  // of the frame that it returned last
  bool holds_descriptors_ = false;
  bool checks_descriptors_ = false;
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
  /// Empty as well if descriptors are to be attached.
  /// *Lifetime:* valid until queue() or consumed().
  std::span<const std::byte> contiguous() const noexcept {
    if (stretches_.size() != head_ + 1 || unsent_descriptors_ != 0) return {};
    return stretches_[head_].view().subspan(written_);
  }
  /// Fills in where the next bytes are, as at most `count` stretches, and returns how many. They end before the next
  /// byte that has descriptors.
  /// *Lifetime:* valid until queue() or consumed().
  std::size_t gather(iovec* stretches, std::size_t count) noexcept;
  /// The descriptors that have to be attached to these bytes. Null if there are none.
  const DescriptorList* descriptors() const noexcept {
    return unsent_descriptors_ != 0 && written_ == 0 ? stretches_[head_].descriptors.get() : nullptr;
  }
  /// The kernel does not send them: their frame is sent without them, and says so. False if there are none.
  bool drop_descriptors() noexcept;

  /// Removes the first `count` bytes, which have been written.
  void consumed(std::size_t count) noexcept;

  /// Discards all frames.
  void clear() noexcept;

 private:
  struct Stretch {
    ByteBuffer buffer{};              // small frames, contiguous
    SharedBytes shared{};             // or a large piece of a frame
    SharedDescriptors descriptors{};  // of the frame that begins with the first byte of the buffer, until it is sent

    std::span<const std::byte> view() const noexcept { return shared ? view_of(*shared) : buffer.view(); }
  };

  ByteBuffer& open_stretch(std::size_t too_long = worth_moving);
  void forget_descriptors() noexcept;
  void make_room_for_stretches(std::size_t count);

  std::vector<Stretch> stretches_;  // the stretches before head_ have been written
  std::size_t head_ = 0;
  std::size_t written_ = 0;  // bytes of the stretch at head_
  std::size_t pending_ = 0;
  std::size_t unsent_descriptors_ = 0;  // stretches that have some
  ByteBuffer spare_;                    // the buffer of a written stretch, to be used again
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/frame.ipp>
#endif

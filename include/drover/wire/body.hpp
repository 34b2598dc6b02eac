#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <drover/detail/config.hpp>
#include <drover/os/detail/descriptor_list.hpp>
#include <drover/os/detail/shared_memory.hpp>
#include <drover/os/fd.hpp>
#include <drover/wire/buffer.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// From this size on, moving is cheaper than copying.
inline constexpr std::size_t worth_moving = 64 * 1024;

/// Bytes in the object that they came in, or (the last one) bytes of the caller.
using MovedBytes = std::variant<ByteBuffer, std::string, std::vector<std::byte>, std::span<const std::byte>>;

std::span<const std::byte> view_of(const MovedBytes& moved) noexcept;

/// Bytes that a queued frame shares with the body it was created from.
using SharedBytes = std::shared_ptr<const MovedBytes>;

/// Descriptors that a queued frame shares with the body it was created from: they are open until both are gone.
using SharedDescriptors = std::shared_ptr<const DescriptorList>;

/// Descriptors of one message, at most.
inline constexpr std::size_t most_descriptors = 64;

/// A body has got a descriptor that its receiver does not take.
struct UnwantedDescriptor {};

/// The body of a frame to send: complete pieces, then a buffer to encode into. Large strings and vectors that were
/// moved in or borrowed are pieces, and are sent from where they are. Descriptors may be attached. A body may be sent
/// more than once. Move-only.
class FrameBody {
 public:
  FrameBody() = default;
  explicit FrameBody(std::size_t capacity) : buffer_(capacity) {}
  /// `close`: what becomes of attached descriptors. An assignment does not change it.
  explicit FrameBody(DescriptorList::Close close) noexcept : close_(close) {}
  FrameBody(FrameBody&& other) noexcept
      : pieces_(std::exchange(other.pieces_, {})),
        borrowed_(std::exchange(other.borrowed_, {})),
        size_of_pieces_(std::exchange(other.size_of_pieces_, 0)),
        buffer_(std::move(other.buffer_)),
        descriptors_(std::move(other.descriptors_)),
        shared_size_(std::exchange(other.shared_size_, 0)),
        close_(other.close_) {}
  FrameBody& operator=(FrameBody&& other) noexcept {
    pieces_ = std::exchange(other.pieces_, {});
    borrowed_ = std::exchange(other.borrowed_, {});
    size_of_pieces_ = std::exchange(other.size_of_pieces_, 0);
    buffer_ = std::move(other.buffer_);
    descriptors_ = std::move(other.descriptors_);
    shared_size_ = std::exchange(other.shared_size_, 0);
    return *this;
  }

  /// The buffer to which further bytes are appended.
  ByteBuffer& buffer() noexcept { return buffer_; }
  const ByteBuffer& buffer() const noexcept { return buffer_; }

  /// Appends the bytes.
  void insert(ByteBuffer&& bytes);
  void insert(std::string&& bytes);
  void insert(std::vector<std::byte>&& bytes);
  /// Appends bytes that stay the caller's until return_borrowed() or until nothing refers to this body and to what was
  /// queued of it.
  void insert_borrowed(std::span<const std::byte> bytes);
  bool has_borrowed() const noexcept { return !borrowed_.empty(); }
  /// The caller wants its bytes back. Those that a queued frame still refers to are copied, and the frame refers to the
  /// copy; the others are dropped. The body is not to be queued again. Throws std::bad_alloc, and may be called again.
  void return_borrowed();
  /// Instead of return_borrowed(), if no queued frame refers to the bytes.
  void drop_borrowed() noexcept;
  /// Turns the content of the buffer into a piece.
  void end_piece();
  /// The pieces before the buffer.
  const std::vector<SharedBytes>& pieces() const noexcept { return pieces_; }
  /// The first bytes, as far as they are contiguous.
  std::span<const std::byte> front() const noexcept {
    return pieces_.empty() ? buffer_.view() : view_of(*pieces_.front());
  }

  /// Throws std::invalid_argument if it has most_descriptors already, and UnwantedDescriptor if the receiver takes
  /// none.
  void attach(UniqueFd descriptor);
  /// The same for the descriptor of memory of which `size` bytes are meant.
  void attach(std::shared_ptr<const SharedMemory> memory, std::size_t size);
  /// It is that of a call, which is kept until the call has ended in the worker. So memory that is filled anew later
  /// may be attached to it.
  bool may_lend() const noexcept { return close_ == DescriptorList::Close::elsewhere; }
  /// Null if none is attached.
  SharedDescriptors descriptors() const noexcept { return descriptors_; }
  bool has_descriptors() const noexcept { return descriptors_ != nullptr; }
  /// Those that are not in a queued frame are closed, once nobody has what this returns.
  SharedDescriptors take_descriptors() noexcept {
    shared_size_ = 0;
    return std::exchange(descriptors_, nullptr);
  }
  void drop_descriptors() noexcept { (void)take_descriptors(); }
  /// Whether the receiver takes descriptors. Usually it does.
  void allow_descriptors(bool on) noexcept { takes_descriptors_ = on; }

  /// The bytes of all pieces and of the buffer.
  std::size_t size() const noexcept { return size_of_pieces_ + buffer_.size(); }
  /// The same with the shared memory that is attached. A limit on messages applies to it.
  std::size_t counted_size() const noexcept {
    const std::size_t own = size();
    return shared_size_ > SIZE_MAX - own ? SIZE_MAX : own + shared_size_;
  }

  /// Keeps the capacity of the buffer.
  void clear() noexcept {
    pieces_.clear();
    borrowed_.clear();
    size_of_pieces_ = 0;
    buffer_.clear();
    drop_descriptors();
  }

 private:
  DescriptorList& list_for_one_more();
  void add(MovedBytes&& piece);
  void add(SharedBytes piece, std::size_t size);

  std::vector<SharedBytes> pieces_;
  std::vector<std::shared_ptr<MovedBytes>> borrowed_;  // those of the pieces that are the caller's
  std::size_t size_of_pieces_ = 0;
  ByteBuffer buffer_;
  std::shared_ptr<DescriptorList> descriptors_;
  std::size_t shared_size_ = 0;  // of the memory among them
  DescriptorList::Close close_ = DescriptorList::Close::here;
  bool takes_descriptors_ = true;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/body.ipp>
#endif

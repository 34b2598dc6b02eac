#pragma once

#include <drover/detail/platform.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <drover/os/detail/shared_memory.hpp>

namespace drover { inline namespace v1 {

namespace detail {

struct SharedAccess;

template <class T>
inline constexpr bool is_shareable = std::is_same_v<T, std::string> || std::is_same_v<T, std::vector<std::byte>>;

template <class T>
void check_shareable() {
  static_assert(is_shareable<T>,
                "drover::Shared<T> is text or bytes: T is std::string or std::vector<std::byte>. Send other types as "
                "they are.");
}

}  // namespace detail

/// Text or bytes that travel as memory which both processes see: an argument or a result of a call, also within other
/// values. What is sent is a descriptor (memfd_create(2)); the bytes are copied once, by copy_of(), or never, with a
/// SharedDraft. `T` is std::string or std::vector<std::byte>.
///
///     auto page = drover::Shared<std::string>::copy_of(text);
///     auto words = co_await pool.call<int>("count_words", page);
///     routines.add("count_words", [](drover::Shared<std::string> page) { return count(page.view()); });
///
/// The memory is sealed: no process can change it. Getting fresh memory costs more than sending the bytes in the
/// ordinary way, unless the receiver passes it on or keeps it. Arguments whose memory is used again are quicker: see
/// SharedBlocks. Its size counts towards WorkerOptions::max_message_size, and its descriptor is one of the 64 that a
/// message may have. A value of size 0 has no memory.
///
/// A copy of it shares the memory, which is freed with the last one. Each one that is not empty keeps a descriptor
/// open.
///
/// A worker that sends memory which it could still change, of another size than it says, or that is not allocated, has
/// sent a result of another type: the call fails with `bad_arguments`.
/// *Lifetime:* as a parameter of a routine it is valid until the routine has ended: memory of SharedBlocks is then
/// filled anew.
/// *Threads:* as a std::shared_ptr.
template <class T>
class Shared {
 public:
  /// std::string_view or std::span<const std::byte>.
  using View = std::conditional_t<std::is_same_v<T, std::string>, std::string_view, std::span<const std::byte>>;

  /// Has no bytes.
  Shared() noexcept { detail::check_shareable<T>(); }

  /// Copies the bytes to fresh memory.
  /// *Errors:* std::system_error if there is no memory or no descriptor; std::bad_alloc.
  static Shared copy_of(View bytes) {
    const auto view = std::as_bytes(std::span(bytes.data(), bytes.size()));
    return view.empty() ? Shared() : Shared(detail::SharedMemory::copy_of(view), view.size());
  }

  /// The bytes.
  /// *Lifetime:* as long as this object, or one that was copied or moved from it.
  View view() const noexcept {
    if (!memory_) return {};
    return View(reinterpret_cast<typename View::const_pointer>(memory_->data()), size_);
  }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

 private:
  friend struct detail::SharedAccess;

  Shared(std::shared_ptr<const detail::SharedMemory> memory, std::size_t size) noexcept
      : memory_(std::move(memory)), size_(size) {}

  std::shared_ptr<const detail::SharedMemory> memory_;  // null: no bytes
  std::size_t size_ = 0;
};

namespace detail {

/// The codec creates a Shared, and takes its memory to send it.
struct SharedAccess {
  template <class T>
  static Shared<T> make(std::shared_ptr<const SharedMemory> memory, std::size_t size) noexcept {
    return Shared<T>(std::move(memory), size);
  }
  template <class T>
  static const std::shared_ptr<const SharedMemory>& memory(const Shared<T>& shared) noexcept {
    return shared.memory_;
  }
};

}  // namespace detail

/// Memory that is being filled, and then becomes a Shared without a copy. Move-only.
///
///     drover::SharedDraft<std::string> draft(size);
///     read_exactly(file, draft.bytes());
///     drover::Shared<std::string> page = std::move(draft).seal();
template <class T>
class SharedDraft {
 public:
  /// char or std::byte.
  using Element = typename T::value_type;

  /// Fresh memory, full of zeros. All of it is allocated at once.
  /// *Errors:* std::system_error if there is no memory or no descriptor; std::bad_alloc.
  explicit SharedDraft(std::size_t size) : SharedDraft(size != 0 ? detail::SharedMemory::draft(size) : nullptr, size) {}

  SharedDraft(SharedDraft&& other) noexcept : memory_(std::move(other.memory_)), size_(std::exchange(other.size_, 0)) {}
  SharedDraft& operator=(SharedDraft&& other) noexcept {
    memory_ = std::move(other.memory_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~SharedDraft() = default;

  /// The memory to write to.
  /// *Lifetime:* until seal(), or until this object is destroyed.
  std::span<Element> bytes() noexcept {
    return memory_ ? std::span(reinterpret_cast<Element*>(memory_->data()), size_) : std::span<Element>();
  }

  /// The memory as a value that can be sent. Nobody can write to it any more. The draft is empty afterwards.
  /// *Errors:* std::system_error; EBUSY if somebody can still write to the memory: the kernel, as for an asynchronous
  /// read into it, or another process that was forked meanwhile and has not executed a program.
  Shared<T> seal() && { return std::move(*this).seal(size_); }
  /// The same for its first `size` bytes.
  /// *Errors:* in addition std::invalid_argument if it has fewer.
  Shared<T> seal(std::size_t size) && {
    if (size > size_) throw std::invalid_argument("a drover::SharedDraft has fewer bytes than are to be sealed");
    const std::shared_ptr<detail::SharedMemory> memory = std::exchange(memory_, nullptr);
    size_ = 0;
    if (size == 0) return {};
    if (memory->sealing() == detail::Sealing::draft) {
      if (!memory->has_file())  // the program has closed it, and the number may be another file
        return detail::SharedAccess::make<T>(detail::SharedMemory::copy_of({memory->data(), size}), size);
      memory->seal(size);
    }
    return detail::SharedAccess::make<T>(memory, size);
  }

 private:
  friend class SharedBlocks;

  SharedDraft(std::shared_ptr<detail::SharedMemory> memory, std::size_t size) noexcept
      : memory_(std::move(memory)), size_(size) {
    detail::check_shareable<T>();
  }

  std::shared_ptr<detail::SharedMemory> memory_;  // null: no bytes
  std::size_t size_ = 0;
};

}}  // namespace drover::v1

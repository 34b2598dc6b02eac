#pragma once

#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/detail/descriptor_disposal.hpp>
#include <drover/os/detail/shared_memory.hpp>
#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The descriptors of one message, in their order. Owns those that nobody has taken. Move-only.
class DescriptorList {
 public:
  /// Where they are closed. `elsewhere`: see DescriptorDisposal.
  enum class Close : bool { here, elsewhere };

  explicit DescriptorList(Close close = Close::here) noexcept : close_(close) {}
  DescriptorList(DescriptorList&& other) noexcept
      : descriptors_(std::exchange(other.descriptors_, {})),
        lent_(std::exchange(other.lent_, {})),
        taken_(std::exchange(other.taken_, 0)),
        close_(other.close_),
        incomplete_(std::exchange(other.incomplete_, false)) {}
  DescriptorList& operator=(DescriptorList&& other) noexcept {
    if (this == &other) return *this;
    clear();
    descriptors_.swap(other.descriptors_);
    lent_.swap(other.lent_);
    taken_ = std::exchange(other.taken_, 0);
    close_ = other.close_;
    incomplete_ = std::exchange(other.incomplete_, false);
    return *this;
  }
  ~DescriptorList() { clear(); }

  bool empty() const noexcept { return taken_ == descriptors_.size(); }
  std::size_t size() const noexcept { return descriptors_.size() - taken_; }
  std::span<const int> view() const noexcept { return std::span(descriptors_).subspan(taken_); }

  /// Throws std::bad_alloc.
  void reserve(std::size_t count) { descriptors_.reserve(count); }
  /// Throws std::bad_alloc, unless there is room for it.
  void add(UniqueFd descriptor) {
    descriptors_.push_back(descriptor.get());
    (void)descriptor.release();
  }
  /// The same for the descriptor of memory, which stays open as long as this list. Nothing is taken from such a list.
  void add_lent(std::shared_ptr<const SharedMemory> memory) {
    lent_.reserve(lent_.size() + 1);
    const int descriptor = memory->file();
    descriptors_.push_back(descriptor);
    lent_.push_back({descriptor, std::move(memory)});
  }
  /// The receiver may still read the memory: it is not filled again, see SharedMemory::retire().
  void retire_lent() const noexcept {
    for (const Lent& each : lent_) each.memory->retire();
  }
  bool has_lent() const noexcept { return !lent_.empty(); }
  /// The first one of those that are left. There must be one.
  UniqueFd take() noexcept { return UniqueFd(descriptors_[taken_++]); }

  /// The kernel could not give this process all that were sent: its table of descriptors is full (EMFILE).
  bool incomplete() const noexcept { return incomplete_; }
  void set_incomplete() noexcept { incomplete_ = true; }

  /// An untrusted process has sent them.
  bool is_of_untrusted() const noexcept { return close_ == Close::elsewhere; }

  /// Closes what is left. Preserves errno.
  void clear() noexcept {
    incomplete_ = false;
    if (!descriptors_.empty()) clear_all();
  }

 private:
  void clear_all() noexcept {
    const int saved = errno;
    for (const Lent& each : lent_) std::erase(descriptors_, each.descriptor);
    lent_.clear();
    if (close_ == Close::elsewhere)
      DescriptorDisposal::close(view());
    else
      while (!empty()) (void)take();
    descriptors_.clear();
    taken_ = 0;
    errno = saved;
  }

  struct Lent {
    int descriptor;
    std::shared_ptr<const SharedMemory> memory;
  };

  std::vector<int> descriptors_;
  std::vector<Lent> lent_;  // those of them that are not closed
  std::size_t taken_ = 0;
  Close close_;
  bool incomplete_ = false;
};

}}}  // namespace drover::v1::detail

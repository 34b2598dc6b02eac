#pragma once

#include <cstddef>
#include <span>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/detail/descriptor_disposal.hpp>
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
        taken_(std::exchange(other.taken_, 0)),
        close_(other.close_),
        incomplete_(std::exchange(other.incomplete_, false)) {}
  DescriptorList& operator=(DescriptorList&& other) noexcept {
    if (this == &other) return *this;
    clear();
    descriptors_.swap(other.descriptors_);
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
  /// The first one of those that are left. There must be one.
  UniqueFd take() noexcept { return UniqueFd(descriptors_[taken_++]); }

  /// The kernel could not give this process all that were sent: its table of descriptors is full (EMFILE).
  bool incomplete() const noexcept { return incomplete_; }
  void set_incomplete() noexcept { incomplete_ = true; }

  /// Closes what is left. Preserves errno.
  void clear() noexcept {
    if (close_ == Close::elsewhere)
      DescriptorDisposal::close(view());
    else
      while (!empty()) (void)take();
    descriptors_.clear();
    taken_ = 0;
    incomplete_ = false;
  }

 private:
  std::vector<int> descriptors_;
  std::size_t taken_ = 0;
  Close close_;
  bool incomplete_ = false;
};

}}}  // namespace drover::v1::detail

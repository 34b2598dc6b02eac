#pragma once

#include <atomic>

namespace drover { inline namespace v1 { namespace detail {

/// Remembers in which epoch an object was created: how many forks lay behind the program then. In a later epoch the
/// program is a forked copy, and the object is foreign. What it refers to (processes, threads, sockets, locks that
/// another thread may have held at the fork) belongs to the original.
///
/// Forks count from the moment at which ReaperThread::get() installs the fork handler, which is before the first
/// process is started. A fork before that copies no process or worker that could belong to the original.
class ForkEpoch {
 public:
  ForkEpoch() noexcept = default;
  ForkEpoch(const ForkEpoch&) = delete;
  ForkEpoch& operator=(const ForkEpoch&) = delete;

  /// True in a forked copy of the program that created this object.
  bool foreign() const noexcept { return created_in_ != current_.load(std::memory_order_relaxed); }

 private:
  friend class ReaperThread;

  /// The fork handler calls it in the copy, before anything else runs there.
  static void begin_next() noexcept { current_.fetch_add(1, std::memory_order_relaxed); }

  inline static std::atomic<unsigned> current_{0};

  const unsigned created_in_ = current_.load(std::memory_order_relaxed);
};

}}}  // namespace drover::v1::detail

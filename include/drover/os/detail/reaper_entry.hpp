#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include <drover/os/detail/fork_epoch.hpp>
#include <drover/os/detail/reaper_thread.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One child's entry at the reaper thread, shared by the parts of the child: its descriptors, each under a channel of
/// its own, and its time. Any thread may call any member once the child has been added.
class ReaperEntry {
 public:
  static constexpr unsigned exit_channel = 0;
  static constexpr unsigned output_channels[] = {1, 2};  // of stdout and stderr
  static constexpr unsigned member_channel = 3;          // a member of the group, after the exit
  static_assert(member_channel < ReaperThread::channels);

  explicit ReaperEntry(ReaperThread& reaper) noexcept : reaper_(reaper) {}
  ReaperEntry(const ReaperEntry&) = delete;
  ReaperEntry& operator=(const ReaperEntry&) = delete;

  /// As ReaperThread::add(), and so on.
  void add(std::shared_ptr<ReaperClient> child) { id_ = reaper_.add(std::move(child)); }
  void remove() noexcept { reaper_.remove(id_); }
  int watch(int fd, unsigned channel, std::uint32_t events) noexcept { return reaper_.watch(fd, id_, channel, events); }
  void unwatch(int fd) noexcept { reaper_.unwatch(fd); }
  void arm(Deadline at) noexcept { reaper_.arm(id_, at); }

  /// True in a forked copy of the program: the reaper thread and the child belong to the original.
  bool foreign() const noexcept { return epoch_.foreign(); }

 private:
  ReaperThread& reaper_;
  const ForkEpoch epoch_;
  std::uint64_t id_ = 0;
};

}}}  // namespace drover::v1::detail

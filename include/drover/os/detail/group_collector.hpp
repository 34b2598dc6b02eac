#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <sys/epoll.h>
#include <sys/types.h>

#include <drover/os/detail/group.hpp>
#include <drover/os/detail/reaper_entry.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Waits until nothing is left of a process group whose leader has been reaped, and collects those of its members that
/// have become our children. Guarded by the child's lock.
class GroupCollector {
 public:
  /// `killed`: SIGKILL has been sent to the group. `collects`: members may be children of this program.
  GroupCollector(ReaperEntry& entry, pid_t group, bool killed, bool collects) noexcept
      : entry_(entry),
        id_(group),
        collects_(collects),
        group_(group, collects),
        phase_(killed ? Phase::killed : Phase::survivors) {}
  GroupCollector(const GroupCollector&) = delete;
  GroupCollector& operator=(const GroupCollector&) = delete;

  /// True if the members have been sent SIGTERM and have time to act on that.
  bool has_time() const noexcept { return phase_ == Phase::survivors; }
  /// True if nothing is left of the group, or the rest does not exit although it has been killed.
  bool over() const noexcept { return phase_ == Phase::over; }

  /// True if a member lives and has time. Without one the group is over.
  bool hold_survivor() noexcept {
    if (has_time() && !group_.hold_member()) phase_ = Phase::over;
    return has_time();
  }

  /// Call it only after hold_survivor().
  void kill() noexcept {
    group_.kill();
    phase_ = Phase::killed;
    looks_ = 0;  // the looks at survivors do not count
  }

  /// Looks whether the group is over. Returns when to look again, if nothing reports that.
  Deadline look(Clock::time_point now) noexcept {
    if (has_time()) return await_survivor(now);
    if (phase_ == Phase::killed) return await_killed(now);
    return std::nullopt;
  }

 private:
  enum class Phase { survivors, killed, over };
  static constexpr int most_looks = 10;  // 1 + 2 + 4 + ... ms: a second in all

  Deadline await_survivor(Clock::time_point now) noexcept {
    // At each look: the descriptor of the next member may have the number of the one before.
    const int member = group_.member();
    if (member >= 0 && entry_.watch(member, ReaperEntry::member_channel, EPOLLIN | EPOLLONESHOT) == 0)
      return std::nullopt;
    // Without pidfds: look again, at growing intervals.
    return now + std::chrono::milliseconds(1 << std::min(looks_++, 7));
  }

  // The living members of a killed group only wait to be scheduled. Wait for that, so that a group that is reported as
  // over is over.
  Deadline await_killed(Clock::time_point now) noexcept {
    if (killed_are_gone()) {
      phase_ = Phase::over;
      return std::nullopt;
    }
    return now + std::chrono::milliseconds(1 << looks_++);
  }

  bool killed_are_gone() noexcept {
    if (!group_exists(id_)) return true;
    if (collects_) {
      collect_group(id_);
      if (!group_exists(id_)) return true;
    }
    if (looks_ >= most_looks) return true;
    // Scan /proc only if the quick looks were not enough.
    if (looks_ < 2 || group_may_live(id_)) return false;
    if (collects_) collect_group(id_);  // members that have exited since the scan
    return true;
  }

  ReaperEntry& entry_;
  const pid_t id_;
  const bool collects_;
  LeaderlessGroup group_;
  Phase phase_;
  int looks_ = 0;
};

}}}  // namespace drover::v1::detail

#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <drover/pool/detail/worker/session.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The workers of a pool that have lost their place in it, until nothing of them is left: another worker is in their
/// slot, their slot has been removed, or they were spares or fork servers. Guarded by the dispatcher's mutex.
class RetiredWorkers {
 public:
  using Sessions = std::vector<std::shared_ptr<WorkerSession>>;

  const Sessions& all() const noexcept { return sessions_; }

  /// Makes room for one more, so that add() and take_over() cannot fail.
  void reserve(Sessions& over) {
    sessions_.reserve(sessions_.size() + 1);
    over.reserve(sessions_.capacity());
  }
  /// The same for so many calls of add() alone.
  void reserve(std::size_t count) { sessions_.reserve(sessions_.size() + count); }
  void add(std::shared_ptr<WorkerSession> session) noexcept { sessions_.push_back(std::move(session)); }
  /// Moves those of which nothing is left to `over`.
  void take_over(Sessions& over) noexcept {
    std::erase_if(sessions_, [&](const auto& retired) {
      if (retired->record().lifecycle.state() != WorkerSession::State::over) return false;
      over.push_back(retired);
      return true;
    });
  }

 private:
  Sessions sessions_;
};

}}}  // namespace drover::v1::detail

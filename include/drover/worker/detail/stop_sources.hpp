#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

namespace drover { inline namespace v1 { namespace detail {

/// The stop sources of the calls whose routines take a std::stop_token. The main thread adds and removes them, the
/// stop-token thread stops them. The lock is never held while user code runs.
class StopSources {
 public:
  std::stop_token add(std::uint64_t call) {
    std::stop_source source;
    std::stop_token token = source.get_token();
    const std::lock_guard held(mutex_);
    sources_.emplace_back(call, std::move(source));
    return token;
  }

  void remove(std::uint64_t call) noexcept {
    std::optional<std::stop_source> removed;  // destroyed without the lock
    const std::lock_guard held(mutex_);
    const auto found = find(call);
    if (found == sources_.end()) return;
    removed = std::move(found->second);
    if (found != sources_.end() - 1) *found = std::move(sources_.back());
    sources_.pop_back();
  }

  /// Runs the stop callbacks of that call on this thread. Does nothing if the call has ended.
  void stop(std::uint64_t call) {
    std::optional<std::stop_source> source;
    {
      const std::lock_guard held(mutex_);
      if (const auto found = find(call); found != sources_.end()) source = found->second;
    }
    if (source) source->request_stop();
  }

  void stop_all() {
    std::vector<std::pair<std::uint64_t, std::stop_source>> sources;
    {
      const std::lock_guard held(mutex_);
      sources = sources_;
    }
    for (auto& [call, source] : sources) source.request_stop();
  }

 private:
  std::vector<std::pair<std::uint64_t, std::stop_source>>::iterator find(std::uint64_t call) noexcept {
    return std::find_if(sources_.begin(), sources_.end(), [&](const auto& entry) { return entry.first == call; });
  }

  std::mutex mutex_;
  std::vector<std::pair<std::uint64_t, std::stop_source>> sources_;
};

}}}  // namespace drover::v1::detail

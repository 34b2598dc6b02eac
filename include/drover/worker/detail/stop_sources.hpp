#pragma once

#include <cstdint>
#include <map>
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
    if (spare_.empty()) {
      sources_.emplace_hint(sources_.end(), call, std::move(source));
    } else {
      spare_.key() = call;
      spare_.mapped() = std::move(source);
      sources_.insert(sources_.end(), std::move(spare_));
    }
    return token;
  }

  void remove(std::uint64_t call) noexcept {
    std::stop_source removed(std::nostopstate);  // destroyed without the lock
    const std::lock_guard held(mutex_);
    auto node = sources_.extract(call);
    if (node.empty()) return;
    removed.swap(node.mapped());
    spare_ = std::move(node);
  }

  /// Runs the stop callbacks of that call on this thread. Does nothing if the call has ended.
  void stop(std::uint64_t call) {
    std::optional<std::stop_source> source;
    {
      const std::lock_guard held(mutex_);
      if (const auto found = sources_.find(call); found != sources_.end()) source = found->second;
    }
    if (source) source->request_stop();
  }

  void stop_all() {
    std::vector<std::stop_source> sources;
    {
      const std::lock_guard held(mutex_);
      sources.reserve(sources_.size());
      for (const auto& [call, source] : sources_) sources.push_back(source);
    }
    for (auto& source : sources) source.request_stop();
  }

 private:
  using Sources = std::map<std::uint64_t, std::stop_source>;

  std::mutex mutex_;
  Sources sources_;           // by call: ids only grow, so a new one is the last
  Sources::node_type spare_;  // of a call that has ended: calls one after another need no memory for a node
};

}}}  // namespace drover::v1::detail

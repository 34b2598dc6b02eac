#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <asio/execution_context.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The signals that have asked a run() for its end, as what runs in it sees them. There is one in each context that
/// run() has made, and none in others. On the context's thread.
class RunSignals final : public asio::execution_context::service {
 public:
  inline static asio::execution_context::id id;

  /// Acts on signals by itself, whatever the coroutine does that owns it.
  class Target {
   public:
    /// The second and later signals; the first one cancels the coroutine.
    virtual void on_signal(unsigned count) = 0;

   protected:
    ~Target() = default;
  };

  explicit RunSignals(asio::execution_context& context) : service(context) {}

  /// Null in a context that is not run()'s.
  static RunSignals* find(asio::execution_context& context) {
    return asio::has_service<RunSignals>(context) ? &asio::use_service<RunSignals>(context) : nullptr;
  }

  unsigned count() const noexcept { return count_; }
  void add(const std::shared_ptr<Target>& target) {
    std::erase_if(targets_, [](const auto& weak) { return weak.expired(); });
    targets_.push_back(target);
  }
  void signalled() {
    if (++count_ < 2) return;
    const auto targets = targets_;
    for (const auto& weak : targets)
      if (const auto target = weak.lock()) target->on_signal(count_);
  }

 private:
  void shutdown() noexcept override { targets_.clear(); }

  unsigned count_ = 0;
  std::vector<std::weak_ptr<Target>> targets_;
};

}}}  // namespace drover::v1::detail

#pragma once

#include <array>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <asio/any_io_executor.hpp>
#include <asio/execution.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>

#include <drover/detail/context/registry.hpp>
#include <drover/os/lines_options.hpp>

namespace drover { inline namespace v1 { namespace detail {

class LineTarget;

/// Holds lines until the handler takes them.
class LineSource {
 public:
  struct Batch {
    std::string text;  // complete lines, each ended by '\n'
    std::size_t dropped = 0;
    std::shared_ptr<LineTarget> last{};  // set in the last batch, so that the source releases the handler there
  };

  /// Takes all waiting lines. Called on the handler's executor.
  virtual Batch take() = 0;

  /// The handler is destroyed: announced lines will not be taken.
  virtual void handler_is_gone() noexcept = 0;

 protected:
  ~LineSource() = default;
};

/// The program's handler and executor, registered with the executor's context. Any number of sources may announce
/// lines; they are handled one after another.
class LineHandler final : public ContextBound, public std::enable_shared_from_this<LineHandler> {
 public:
  using Function = std::function<void(std::string_view)>;

  LineHandler(std::shared_ptr<ContextRegistry> registry, asio::any_io_executor executor, Function function)
      : registry_(std::move(registry)), executor_(std::move(executor)), function_(std::move(function)) {}

  /// Does nothing if the context is destroyed.
  void add_to_registry() {
    const auto held = registry_->lock();
    if (!registry_->closed()) registry_->add(shared_from_this());
  }

  /// Reverses add_to_registry(). Nothing happens if the context has been destroyed meanwhile.
  void remove_from_registry() noexcept {
    std::shared_ptr<ContextBound> self;
    const auto held = registry_->lock();
    self = registry_->remove(*this);
  }

  /// Announces that `source` has lines. The run is posted when this returns, so it comes before handlers that are
  /// posted later. False if the context, and with it the handler, is destroyed. Throws std::bad_alloc; then nothing has
  /// been announced.
  bool announce(std::shared_ptr<LineSource> source) {
    const std::lock_guard own(mutex_);
    const auto held = registry_->lock();
    if (registry_->closed()) return false;
    ready_.push_back(std::move(source));
    try {
      post_run();
    } catch (...) {
      ready_.pop_back();
      throw;
    }
    return true;
  }

 private:
  // With both locks held and the registry open.
  void post_run() {
    if (posted_) return;
    asio::post(executor_, [self = shared_from_this()] { self->run(); });
    posted_ = true;
  }

  // Runs on the executor. A source may announce again meanwhile, which posts another run. On a context with several
  // threads that run may begin while this one works; it then leaves everything to this one.
  void run() {
    std::vector<std::shared_ptr<LineSource>> sources;
    {
      const std::lock_guard own(mutex_);
      posted_ = false;
      if (running_) return;
      running_ = true;
      sources.swap(ready_);
    }
    do {
      for (const auto& source : sources) handle(*source);
      sources.clear();
    } while (!rest_is_posted(sources));
  }

  // Posts a run for the sources announced meanwhile. False if there was no memory for that; `sources` then has them.
  bool rest_is_posted(std::vector<std::shared_ptr<LineSource>>& sources) noexcept {
    const std::lock_guard own(mutex_);
    running_ = false;
    if (ready_.empty()) return true;
    const auto held = registry_->lock();
    if (registry_->closed()) return true;
    try {
      post_run();
      return true;
    } catch (...) {
      running_ = true;
      sources.swap(ready_);
      return false;
    }
  }

  void handle(LineSource& source) noexcept try {
    const LineSource::Batch batch = source.take();
    if (batch.dropped != 0) call(notice_of(batch.dropped).data());
    std::string_view rest = batch.text;
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      call(rest.substr(0, end));
      rest.remove_prefix(end + 1);
    }
  } catch (const std::bad_alloc&) {  // the lines stay where they are
  }

  // Does not allocate: if that failed, the batch would be lost with it.
  static std::array<char, 96> notice_of(std::size_t dropped) noexcept {
    std::array<char, 96> text{};
    std::snprintf(text.data(), text.size(), "drover: %zu lines dropped here, their handler was too slow", dropped);
    return text;
  }

  void call(std::string_view line) noexcept {
    try {
      function_(line);
    } catch (...) {  // documented: exceptions are ignored
    }
  }

  void context_destroyed() noexcept override {
    std::vector<std::shared_ptr<LineSource>> sources;  // they refer to this object
    {
      const std::lock_guard own(mutex_);
      sources.swap(ready_);
    }
    for (const auto& source : sources) source->handler_is_gone();
    executor_ = {};
    function_ = {};
  }

  std::shared_ptr<ContextRegistry> registry_;
  std::mutex mutex_;
  asio::any_io_executor executor_;
  Function function_;
  std::vector<std::shared_ptr<LineSource>> ready_;
  bool posted_ = false;
  bool running_ = false;
};

/// Held by a Stdio and the readers of its processes. The handler lives until the last of them or its context is
/// destroyed.
class LineTarget {
 public:
  LineTarget(asio::any_io_executor executor, LineHandler::Function function, LinesOptions options)
      : waits_(options.when_behind == LinesOptions::WhenBehind::wait) {
    if (!executor) throw std::invalid_argument("Stdio::lines needs an executor");
    if (!function) throw std::invalid_argument("Stdio::lines needs a handler");
    auto registry = ContextRegistry::of(asio::query(executor, asio::execution::context));
    handler_ = std::make_shared<LineHandler>(std::move(registry), std::move(executor), std::move(function));
    handler_->add_to_registry();
  }
  ~LineTarget() { handler_->remove_from_registry(); }
  LineTarget(const LineTarget&) = delete;
  LineTarget& operator=(const LineTarget&) = delete;

  bool announce(std::shared_ptr<LineSource> source) { return handler_->announce(std::move(source)); }
  bool waits() const noexcept { return waits_; }

 private:
  const bool waits_;
  std::shared_ptr<LineHandler> handler_;
};

}}}  // namespace drover::v1::detail

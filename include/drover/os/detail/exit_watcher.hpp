#pragma once

#include <memory>
#include <mutex>
#include <poll.h>
#include <system_error>
#include <utility>

#include <asio/any_io_executor.hpp>
#include <asio/detail/reactor.hpp>
#include <asio/execution_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/query.hpp>

#include <drover/detail/context/registry.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Lets the waiting coroutine's context see the exit itself, which saves a wake-up by the reaper thread. Only the first
/// waiter of a process has one. Without a reactor in the context, or without a descriptor, the reaper thread alone
/// reports the exit. A local variable of the waiting coroutine, so it is destroyed when that is resumed or its context
/// is destroyed.
class ExitWatcher {
 public:
  ExitWatcher(std::shared_ptr<ChildProcess> child, const asio::any_io_executor& executor) {
    asio::execution_context& context = asio::query(executor, asio::execution::context);
    (void)ContextRegistry::of(context);
    if (!asio::has_service<asio::detail::reactor>(context)) return;
    KeptPidfd end = child->borrow_pidfd();
    if (!end) return;
    state_ = std::make_shared<State>(std::move(child), executor, std::move(end));
    std::error_code failed;
    state_->descriptor->assign(state_->lent.get(), failed);
    if (failed) state_->descriptor.reset();
    state_->wait();
  }
  ~ExitWatcher() {
    if (state_) state_->close();
  }
  ExitWatcher(const ExitWatcher&) = delete;
  ExitWatcher& operator=(const ExitWatcher&) = delete;

 private:
  using Descriptor = asio::posix::stream_descriptor;

  // Handlers run on any thread of the context.
  struct State : std::enable_shared_from_this<State> {
    State(std::shared_ptr<ChildProcess> c, const asio::any_io_executor& executor, KeptPidfd e)
        : child(std::move(c)), lent(std::move(e)), descriptor(std::make_unique<Descriptor>(executor)) {}

    void wait() {
      const std::lock_guard held(mutex);
      if (!descriptor) return;
      descriptor->async_wait(Descriptor::wait_read, [self = shared_from_this()](std::error_code ec) {
        if (!ec) self->on_readable();
      });
    }

    // Asio may also report an event of an earlier descriptor that had the same entry in the reactor.
    void on_readable() { readable() ? child->look_now() : wait(); }

    bool readable() {
      const std::lock_guard held(mutex);
      if (!descriptor) return false;
      pollfd end{descriptor->native_handle(), POLLIN, 0};
      return ::poll(&end, 1, 0) != 0;
    }

    void close() {
      std::unique_ptr<Descriptor> closed;
      {
        const std::lock_guard held(mutex);
        closed = std::move(descriptor);
      }
      // A forked copy of the program shares the original's epoll instance and must not touch it, nor take its locks.
      if (child->foreign()) return void(closed.release());
      if (!closed) return child->return_pidfd();
      // Removed from the epoll set before it is closed, see ReaperThread::unwatch().
      (void)closed->release();
      lent.reset();
      child->return_pidfd();
    }

    const std::shared_ptr<ChildProcess> child;
    KeptPidfd lent;  // owns the number that `descriptor` uses
    std::mutex mutex;
    std::unique_ptr<Descriptor> descriptor;
  };

  std::shared_ptr<State> state_;
};

}}}  // namespace drover::v1::detail

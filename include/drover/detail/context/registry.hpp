#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include <asio/execution_context.hpp>

#include <drover/detail/config.hpp>

namespace drover { inline namespace v1 { namespace detail {

class ContextRegistry;

/// Something that refers to an execution context (a waiting handler, a socket, a timer, a copy of an executor) and
/// therefore has to let go of it before the context is gone. Its home owns it while it is listed there.
class ContextBound {
 public:
  ContextBound() = default;
  ContextBound(const ContextBound&) = delete;
  ContextBound& operator=(const ContextBound&) = delete;

 protected:
  virtual ~ContextBound() = default;

 private:
  friend class ContextRegistry;

  /// The context is being destroyed: let go of everything that refers to it, silently. Called once, without the home's
  /// lock, on the thread that destroys the context; nothing runs on that context any more.
  virtual void context_destroyed() noexcept = 0;

  std::shared_ptr<ContextBound> self_;  // set while listed
  ContextBound* previous_ = nullptr;
  ContextBound* next_ = nullptr;
};

/// What drover keeps in an execution context, one for each context. Objects outside hold it by shared_ptr and so may
/// outlive the context: from then on the home is down, and nothing can be posted or moved in any more.
///
/// Lock order: an object's own mutex first, a home's last. Under a home's lock only move in, move out and post (see
/// PostScope); never run code of the user's.
class ContextRegistry {
 public:
  static std::shared_ptr<ContextRegistry> of(asio::execution_context& context);

  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

  /// With the lock held.
  bool closed() const noexcept { return closed_; }

  /// With the lock held and the home up.
  void add(std::shared_ptr<ContextBound> resident) noexcept {
    ContextBound& r = *resident;
    r.previous_ = nullptr;
    r.next_ = first_;
    if (first_ != nullptr) first_->previous_ = &r;
    first_ = &r;
    r.self_ = std::move(resident);
  }

  /// With the lock held. Gives back the home's share, so that the resident is not destroyed under the lock; null if it
  /// was not listed.
  std::shared_ptr<ContextBound> remove(ContextBound& r) noexcept {
    if (!r.self_) return nullptr;
    (r.previous_ != nullptr ? r.previous_->next_ : first_) = r.next_;
    if (r.next_ != nullptr) r.next_->previous_ = r.previous_;
    r.previous_ = r.next_ = nullptr;
    return std::exchange(r.self_, nullptr);
  }

  /// Holds the lock while something is posted. An executor whose context is half gone (a strand, say, goes before the
  /// homes do) destroys at once what it is given; handlers of the user's have to wait for the end of the lock.
  class PostScope {
   public:
    explicit PostScope(ContextRegistry& registry) : before_(std::exchange(current_, this)), held_(registry.mutex_) {}
    PostScope(const PostScope&) = delete;
    PostScope& operator=(const PostScope&) = delete;
    ~PostScope() {
      current_ = before_;
      held_.unlock();
      if (dropped_) let_go_(dropped_.get());
    }

    /// What was to be posted was destroyed because it could not be, and will be posted again: nobody lets go of
    /// anything.
    void failed() noexcept { dropped_.reset(); }

    /// What was posted is being destroyed, and with it `owner`, which is to let go of something. If this thread is
    /// posting that is done once the lock has gone; false: the caller may do it now.
    static bool postpone(std::shared_ptr<void> owner, void (*let_go)(void*) noexcept) noexcept {
      if (current_ == nullptr) return false;
      current_->dropped_ = std::move(owner);
      current_->let_go_ = let_go;
      return true;
    }

   private:
    static constinit inline thread_local PostScope* current_ = nullptr;

    PostScope* const before_;
    std::shared_ptr<void> dropped_;
    void (*let_go_)(void*) noexcept = nullptr;
    std::unique_lock<std::mutex> held_;
  };

 private:
  class Service;

  void shut_down() noexcept {
    {
      const auto held = lock();
      closed_ = true;
    }
    // One at a time: letting go of one may destroy others, or move them out.
    for (;;) {
      std::shared_ptr<ContextBound> resident;
      {
        const auto held = lock();
        if (first_ == nullptr) return;
        resident = remove(*first_);
      }
      if (resident) resident->context_destroyed();  // always: what is first is listed, which compilers cannot know
    }
  }

  std::mutex mutex_;
  bool closed_ = false;
  ContextBound* first_ = nullptr;
};

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/detail/context/registry.ipp>
#endif

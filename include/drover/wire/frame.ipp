#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

DROVER_INLINE std::span<std::byte> FrameReader::prepare() {
  last_body_ = {};
  if (large_pending_) return {large_.data() + large_received_, large_header_.size - large_received_};
  if (large_.capacity() > most_kept) large_ = ByteBuffer();
  if (buffer_.capacity() == 0) buffer_.reserve(buffer_size_);
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (begin_ != 0) {
    // The rest is less than a frame: move it to the front, so that what is missing fits behind it.
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= std::exchange(begin_, 0);
  }
  // Frames that have not been taken yet may fill the buffer.
  if (end_ == buffer_.capacity()) {
    buffer_.truncate(end_);
    buffer_.extend(buffer_size_);
  }
  return {buffer_.data() + end_, buffer_.capacity() - end_};
}

DROVER_INLINE void FrameReader::commit(std::size_t count) noexcept {
  (large_pending_ ? large_received_ : end_) += count;
}

DROVER_INLINE void FrameReader::check(const FrameHeader& header) const {
  const auto type = static_cast<unsigned>(header.type);
  const auto refuse = [](const std::string& why) { throw MalformedFrame(why); };
  if (header.attempt != 0 && header.type != FrameType::call) refuse("frame header with an attempt, but not of a call");
  if (type < static_cast<unsigned>(FrameType::hello) || type > static_cast<unsigned>(FrameType::begun))
    refuse("frame of unknown type " + std::to_string(type));
  unsigned flags = 0, most = 0;  // of the status
  switch (header.type) {
    case FrameType::call:
      flags = ahead_flag | wants_quick_flag | facts_flag | takes_descriptors_flag | items_out_flag | items_in_flag |
              wants_begun_flag;
      break;
    case FrameType::result:
      flags = quick_flag;
      most = static_cast<unsigned>(ResultStatus::message_too_large);
      break;
    case FrameType::cancel: most = static_cast<unsigned>(CancelReason::deadline); break;
    default: break;
  }
  if ((header.status & ~flags) > most) refuse("frame of unknown status " + std::to_string(header.status));
  if (header.size > max_body_)
    refuse((header.type == FrameType::hello ? "greeting with the names of all routines of " : "frame of ") +
           std::to_string(header.size) + " bytes, where at most " + std::to_string(max_body_) + " are allowed");
  if (header.descriptors == 0) [[likely]]
    return;
  if (header.type != FrameType::call && header.type != FrameType::result)
    refuse("frame header with descriptors, but neither of a call nor of a result");
  if (header.descriptors > most_descriptors)
    refuse("frame with " + std::to_string(header.descriptors) + " descriptors, where at most " +
           std::to_string(most_descriptors) + " are allowed");
}

DROVER_INLINE std::optional<Frame> FrameReader::next_frame() {
  if (!large_pending_) {
    FrameHeader header;
    if (end_ - begin_ < sizeof header) return std::nullopt;
    std::memcpy(&header, buffer_.data() + begin_, sizeof header);
    check(header);
    const std::size_t here = end_ - begin_ - sizeof header;
    const std::byte* const body = buffer_.data() + begin_ + sizeof header;
    if (header.size <= here) {
      begin_ += sizeof header + header.size;
      last_body_ = {body, header.size};
      return Frame{header, last_body_};
    }
    if (header.size <= buffer_size_ - sizeof header) return std::nullopt;
    if (large_.capacity() < header.size) large_ = ByteBuffer(header.size);
    large_.clear();
    large_.extend(header.size);
    std::memcpy(large_.data(), body, here);
    large_header_ = header;
    large_received_ = here;
    large_pending_ = true;
    begin_ = end_ = 0;
  }
  if (large_received_ != large_header_.size) return std::nullopt;
  large_pending_ = false;
  last_body_ = large_.view();
  return Frame{large_header_, last_body_};
}

DROVER_INLINE std::optional<Frame> FrameReader::next() {
  std::optional<Frame> frame = next_frame();
  if (holds_descriptors_ || (frame && frame->header.descriptors != 0)) [[unlikely]]
    match_descriptors(frame);
  return frame;
}

/// What has arrived first is of a frame with so many.
DROVER_INLINE void FrameReader::check_arrived(std::size_t wanted) const {
  const bool any = !arrived_descriptors_.empty();
  const std::size_t found = any ? arrived_descriptors_.front().size() : 0;
  if (found == wanted || (wanted != 0 && any && arrived_descriptors_.front().incomplete())) return;
  throw MalformedFrame("a frame that should have " + std::to_string(wanted) + " descriptors attached has " +
                       std::to_string(found));
}

DROVER_INLINE void FrameReader::match_descriptors(const std::optional<Frame>& frame) {
  last_descriptors_.clear();
  if (checks_descriptors_ && frame && frame->header.descriptors != 0) {
    check_arrived(frame->header.descriptors);
    last_descriptors_ = std::move(arrived_descriptors_.front());
    arrived_descriptors_.erase(arrived_descriptors_.begin());
  } else if (!frame && !arrived_descriptors_.empty()) {
    // They can only be those of the frame that has arrived in part.
    if (arrived_descriptors_.size() > 1)
      throw MalformedFrame("the descriptors of a frame are attached to more than one message");
    FrameHeader header = large_header_;
    const bool known = large_pending_ || end_ - begin_ >= sizeof header;
    if (known && !large_pending_) std::memcpy(&header, buffer_.data() + begin_, sizeof header);
    if (known || begin_ == end_) check_arrived(known ? header.descriptors : 0);
  }
  holds_descriptors_ = !arrived_descriptors_.empty() || !last_descriptors_.empty() || last_descriptors_.incomplete();
}

DROVER_INLINE ByteBuffer FrameReader::take_body() {
  const std::span<const std::byte> body = std::exchange(last_body_, {});
  if (body.data() != nullptr && body.data() == large_.data()) return std::move(large_);
  ByteBuffer copy;
  if (!body.empty()) copy.append(body);
  return copy;
}

DROVER_INLINE ByteBuffer& FrameWriter::open_stretch(std::size_t too_long) {
  // A long stretch is not extended, so that its memory is freed once it has been written.
  if (stretches_.size() == head_ || stretches_.back().shared || stretches_.back().buffer.size() >= too_long) {
    if (head_ > 32 && head_ > stretches_.size() / 2) {
      stretches_.erase(stretches_.begin(), stretches_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
    stretches_.push_back({.buffer = std::move(spare_)});
  }
  return stretches_.back().buffer;
}

DROVER_INLINE void FrameWriter::make_room_for_stretches(std::size_t count) {
  const std::size_t wanted = stretches_.size() + count;
  if (wanted > stretches_.capacity()) stretches_.reserve(std::max(wanted, 2 * stretches_.capacity()));
}

DROVER_INLINE void FrameWriter::queue(FrameHeader header, std::span<const std::byte> body) {
  if (body.size() > std::numeric_limits<std::uint32_t>::max()) throw std::length_error("frame body of 4 GiB or more");
  header.size = static_cast<std::uint32_t>(body.size());
  ByteBuffer& bytes = open_stretch();
  std::byte* const place = bytes.extend(sizeof header + body.size());
  std::memcpy(place, &header, sizeof header);
  if (!body.empty()) std::memcpy(place + sizeof header, body.data(), body.size());
  pending_ += sizeof header + body.size();
}

DROVER_INLINE void FrameWriter::queue(FrameHeader header, ByteBuffer&& body) {
  if (body.size() < worth_moving) return queue(header, body.view());
  FrameBody large;
  large.insert(std::move(body));
  queue(header, large);
}

DROVER_INLINE void FrameWriter::queue(FrameHeader header, FrameBody& body) {
  if (body.size() > std::numeric_limits<std::uint32_t>::max()) throw std::length_error("frame body of 4 GiB or more");
  if (!body.pieces().empty() || body.buffer().size() >= worth_moving) body.end_piece();
  if (body.pieces().empty() && !body.has_descriptors()) return queue(header, body.buffer().view());
  header.size = static_cast<std::uint32_t>(body.size());
  SharedDescriptors descriptors = body.descriptors();
  if (descriptors) header.descriptors = static_cast<std::uint16_t>(descriptors->size());
  // First do what may fail: copy the header and the small pieces, those before the first large one and those between.
  std::vector<Stretch> made;
  made.reserve(2 * body.pieces().size());
  ByteBuffer first;
  first.append(&header, sizeof header);
  first.append(body.buffer().view());  // empty if there are pieces
  for (const SharedBytes& piece : body.pieces()) {
    const std::span<const std::byte> bytes = view_of(*piece);
    if (bytes.size() >= worth_moving) {
      made.push_back({.shared = piece});
    } else if (!bytes.empty()) {
      if (!made.empty() && made.back().shared) made.emplace_back();
      (made.empty() ? first : made.back().buffer).append(bytes);
    }
  }
  open_stretch(descriptors ? 1 : worth_moving);
  make_room_for_stretches(made.size());
  stretches_.back().buffer.append(first.view());  // from here on nothing can fail
  if (descriptors) ++unsent_descriptors_;
  if (descriptors) stretches_.back().descriptors = std::move(descriptors);
  pending_ += sizeof header + header.size;
  for (Stretch& next : made) stretches_.push_back(std::move(next));
}

DROVER_INLINE std::size_t FrameWriter::gather(iovec* stretches, std::size_t count) noexcept {
  std::size_t filled = 0;
  std::size_t skip = written_;
  for (std::size_t i = head_; i < stretches_.size() && filled < count; ++i, skip = 0) {
    if (stretches_[i].descriptors && i != head_) break;
    const std::span<const std::byte> bytes = stretches_[i].view();
    if (bytes.size() == skip) continue;
    stretches[filled++] = {const_cast<std::byte*>(bytes.data()) + skip, bytes.size() - skip};  // it is only read from
  }
  return filled;
}

DROVER_INLINE bool FrameWriter::drop_descriptors() noexcept {
  if (descriptors() == nullptr) return false;
  constexpr std::uint16_t none = 0;
  std::memcpy(stretches_[head_].buffer.data() + offsetof(FrameHeader, descriptors), &none, sizeof none);
  forget_descriptors();
  return true;
}

DROVER_INLINE void FrameWriter::forget_descriptors() noexcept {
  if (descriptors() == nullptr) return;
  stretches_[head_].descriptors.reset();
  --unsent_descriptors_;
}

DROVER_INLINE void FrameWriter::consumed(std::size_t count) noexcept {
  if (count != 0 && unsent_descriptors_ != 0) [[unlikely]]
    forget_descriptors();
  pending_ -= count;
  written_ += count;
  if (pending_ == 0 && stretches_.size() == 1 && !stretches_[0].shared &&
      stretches_[0].buffer.capacity() <= 2 * worth_moving) [[likely]] {
    stretches_[0].buffer.clear();  // for the next frames
    head_ = written_ = 0;
    return;
  }
  while (head_ < stretches_.size() && written_ >= stretches_[head_].view().size()) {
    Stretch& done = stretches_[head_++];
    written_ -= done.view().size();
    done.shared.reset();
    const std::size_t capacity = done.buffer.capacity();
    if (capacity > spare_.capacity() && capacity <= 2 * worth_moving) {
      spare_ = std::move(done.buffer);
      spare_.clear();
    } else {
      done.buffer = ByteBuffer();
    }
  }
  if (pending_ == 0) {
    stretches_.clear();
    head_ = written_ = 0;
  }
}

DROVER_INLINE void FrameWriter::clear() noexcept {
  stretches_.clear();
  head_ = written_ = pending_ = unsent_descriptors_ = 0;
}

}}}  // namespace drover::v1::detail

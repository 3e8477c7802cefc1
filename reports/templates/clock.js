"use strict";
// Keeps a video at the clock's time ({playing, speed}); it is only as free as its decoder needs.
function follow(video, time, fps, clock) {
  if (video.readyState < HTMLMediaElement.HAVE_METADATA || video.seeking) return;
  const half = 0.5 / fps;
  // The middle of the last frame: a video shorter than its reference waits there.
  const end = Math.max(0, video.duration - half);
  if (!clock.playing || time >= end) {
    if (!video.paused) video.pause();
    const middle = Math.min(end, (Math.floor(time * fps + 1e-6) + 0.5) / fps);
    const allowed = clock.playing ? 2 * half : 0.2 * half;
    if (Math.abs(video.currentTime - middle) > allowed) video.currentTime = middle;
    return;
  }
  const ahead = video.currentTime - time;
  if (Math.abs(ahead) > Math.max(0.12, 3 * half) * Math.max(1, clock.speed)) {
    video.currentTime = time;
  }
  // Small differences are made up for by speed, which does not show; a seek does.
  const rate = clock.speed * Math.min(1.5, Math.max(0.5, 1 - 3 * ahead / clock.speed));
  if (Math.abs(video.playbackRate - rate) > 0.03 * clock.speed) video.playbackRate = rate;
  if (video.paused) video.play().catch(() => {});
}

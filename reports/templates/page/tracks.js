// Tracks over the two videos of a take's own view: where points are now, and where they came from.
const TAIL = 8; // frames
const layers = []; // { canvas, video, tracks, colour }

// Steps become places, in thousandths of the picture.
function placesOf({ xy, seen }) {
  const places = [];
  for (let frame = 0, x = 0, y = 0; frame < xy.length / 2; frame++) {
    x += xy[2 * frame];
    y += xy[2 * frame + 1];
    places.push(seen[frame] === "1" ? [x / 1000, y / 1000] : null);
  }
  return places;
}

const layerOf = (canvas, video, tracks, colour) => ({ canvas, video, colour, places: tracks.map(placesOf), drawn: "" });

function drawLayer(layer) {
  const { canvas, video, places, colour } = layer;
  const frame = Math.floor(video.currentTime * timing.get(video).fps + 1e-3);
  const scale = devicePixelRatio;
  const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
  const what = `${frame} ${width} ${height} ${$("tracks").checked}`;
  if (layer.drawn === what) return;
  layer.drawn = what;
  [canvas.width, canvas.height] = [width, height];
  if (!$("tracks").checked) return;
  const pen = canvas.getContext("2d");
  const draw = (ink, thick) => {
    pen.strokeStyle = pen.fillStyle = ink;
    pen.lineWidth = thick;
    for (const track of places) {
      const now = track[Math.min(frame, track.length - 1)];
      if (!now) continue;
      pen.beginPath();
      let down = false;
      for (const place of track.slice(Math.max(0, frame - TAIL), frame + 1)) {
        if (place) pen[down ? "lineTo" : "moveTo"](place[0] * width, place[1] * height);
        down = place !== null;
      }
      pen.stroke();
      pen.beginPath();
      pen.arc(now[0] * width, now[1] * height, thick, 0, 7);
      pen.fill();
    }
  };
  pen.lineCap = pen.lineJoin = "round";
  draw("rgb(0 0 0 / .65)", 3.2 * scale);
  draw(colour, 1.7 * scale);
}

function drawTracks() {
  for (const layer of layers) drawLayer(layer);
}

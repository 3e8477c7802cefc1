history.scrollRestoration = "manual";
theme(remember());
play(clock.playing);
faster(0);
// Few methods fill the width.
if (rows.length < 4) $("size").value = Math.max(192, Math.min(288, (innerWidth - 100) / (rows.length + 1) - 16));
resize();
readAddress();
sortTables();
showFirst();
arrange();
if (state.at) goTo(state.at);
openOrClose();
requestAnimationFrame(tick);

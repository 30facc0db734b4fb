// Runs inside OHIF's page: opens one result after the other and posts what the viewer made of it.
// OPENED, which the server writes before it, maps the number of a series to its kind, in the order of opening.
(async () => {
  localStorage.setItem("shownTours", JSON.stringify(["basicViewerTour"]));
  const PICTURES = ["film", "capture", "reformat"];
  const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
  const post = (report) => fetch("/report", { method: "POST", body: JSON.stringify(report) });

  const until = async (condition, seconds) => {
    for (let i = 0; i < 5 * seconds; i += 1) {
      if (condition()) return true;
      await wait(0.2);
    }
    return false;
  };
  const sets = () => window.services.displaySetService.getActiveDisplaySets();
  const ready = () =>
    window.services?.displaySetService &&
    OPENED.every(([number]) => sets().some((set) => Number(set.SeriesNumber) === number)) &&
    window.services.viewportGridService.getState().viewports.size > 0;

  const drawnLines = () =>
    [...document.querySelectorAll("svg.svg-layer line")].map((line) => ({
      dashes: line.getAttribute("stroke-dasharray"),
      ends: ["x1", "y1", "x2", "y2"].map((name) => Number(line.getAttribute(name))),
    }));
  const segments = () =>
    window.services.segmentationService
      .getSegmentations()
      .flatMap((segmentation) => Object.values(segmentation.segments).map((segment) => segment.label));
  const canvasShown = () => document.querySelector("canvas.cornerstone-canvas");
  const brightness = () => {
    const canvas = canvasShown();
    if (!canvas) return 0;
    const small = document.createElement("canvas");
    small.width = small.height = 64;
    const context = small.getContext("2d");
    context.drawImage(canvas, 0, 0, 64, 64);
    return Math.max(...context.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 !== 3));
  };
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const pictured = (set) => {
    const { cornerstoneViewportService, viewportGridService } = window.services;
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
    return Boolean(viewport?.getCornerstoneImage?.()?.imageId.includes(set.SeriesInstanceUID));
  };
  const shown = {
    film: () => brightness() > 50,
    capture: () => brightness() > 100,
    reformat: () => brightness() > 50,
    report: () => drawnLines().length > 0,
    details: () => document.body.innerText.includes("Vertebral Screening Details"),
    segmentation: () => segments().length > 0,
    bodies: () => segments().some((label) => label.endsWith(" body")),
  };
  const errors = [];
  const logged = console.error;
  console.error = (...words) => {
    errors.push(words.map(String).join(" "));
    logged(...words);
  };
  const lost = () => document.querySelector('[data-cy="viewport-grid"]') === null;

  const began = await until(ready, 90);
  if (began) await until(() => brightness() > 50, 60);
  await wait(2);
  await post({
    began,
    series: began ? sets().map((set) => Number(set.SeriesNumber)) : [],
    text: document.body.innerText.slice(0, 4000),
    picture: canvasShown()?.toDataURL("image/png"),
  });
  if (!began) return;
  const open = async (number, kind) => {
    const { viewportGridService, hangingProtocolService } = window.services;
    const set = sets().find((one) => Number(one.SeriesNumber) === number);
    const viewport = viewportGridService.getActiveViewportId();
    viewportGridService.setDisplaySetsForViewports(
      hangingProtocolService.getViewportsRequireUpdate(viewport, set.displaySetInstanceUID),
    );
    if (PICTURES.includes(kind)) {
      // the image before this one may be bright, too: the new one is drawn in the frame after it arrived
      await until(() => pictured(set), 15);
      await frame();
      await frame();
    }
    await until(() => shown[kind]() || lost(), 30);
    return !lost() && shown[kind]();
  };
  for (const [number, kind] of OPENED) {
    const set = sets().find((one) => Number(one.SeriesNumber) === number);
    errors.length = 0;
    let isShown = await open(number, kind);
    for (let attempt = 0; attempt < 3 && !isShown && !lost(); attempt += 1) {
      // on a busy machine an opening was seen to draw nothing: a reader opens an image and then it again, too; without
      // anything else in between the viewer leaves all as it is
      await open(...OPENED.find(([other]) => other !== number));
      isShown = await open(number, kind);
    }
    await wait(1);
    await post({
      number,
      description: set.SeriesDescription,
      shown: isShown,
      measurements: (set.measurements ?? []).map((one) => ({
        loaded: one.loaded,
        labels: one.labels.map(({ label, value }) => [label, value]),
        lines: one.coords.map((coordinates) => [...coordinates.GraphicData]),
      })),
      lines: drawnLines(),
      segments: segments(),
      picture: canvasShown()?.toDataURL("image/png"),
      errors,
      text: document.body.innerText.slice(0, 4000),
    });
  }
})();

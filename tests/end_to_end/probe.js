// Runs inside OHIF's page: opens one result after the other and posts what the viewer made of it.
(async () => {
  localStorage.setItem("shownTours", JSON.stringify(["basicViewerTour"]));
  const RESULTS = [9001, 9002, 9003, 9004, 9005, 9006];
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
    RESULTS.every((number) => sets().some((set) => Number(set.SeriesNumber) === number)) &&
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
  const brightness = () => {
    const canvas = document.querySelector("canvas.cornerstone-canvas");
    if (!canvas) return 0;
    const small = document.createElement("canvas");
    small.width = small.height = 64;
    const context = small.getContext("2d");
    context.drawImage(canvas, 0, 0, 64, 64);
    return Math.max(...context.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 !== 3));
  };
  const shown = {
    9001: () => brightness() > 100,
    9002: () => brightness() > 50,
    9003: () => drawnLines().length > 0,
    9004: () => document.body.innerText.includes("Vertebral Screening Details"),
    9005: () => segments().length > 0,
    9006: () => segments().some((label) => label.endsWith(" body")),
  };

  const began = await until(ready, 90);
  await post({ began, series: began ? sets().map((set) => Number(set.SeriesNumber)) : [] });
  if (!began) return;
  await wait(2);
  for (const number of RESULTS) {
    const { viewportGridService, hangingProtocolService } = window.services;
    const set = sets().find((one) => Number(one.SeriesNumber) === number);
    const viewport = viewportGridService.getActiveViewportId();
    let isShown = false;
    for (let attempt = 0; attempt < 3 && !isShown; attempt += 1) {
      // on a busy machine the first opening was seen to draw nothing: a reader opens it again, too
      viewportGridService.setDisplaySetsForViewports(
        hangingProtocolService.getViewportsRequireUpdate(viewport, set.displaySetInstanceUID),
      );
      isShown = await until(shown[number], 30);
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
      text: document.body.innerText.slice(0, 4000),
    });
  }
})();

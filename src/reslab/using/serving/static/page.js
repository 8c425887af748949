document.querySelector("#files").addEventListener("change", async (event) => {
  const form = new FormData();
  for (const file of event.target.files) form.append("pictures", file);
  const answer = await fetch("predict", {method: "POST", body: form});
  document.querySelector("#results").textContent = JSON.stringify(await answer.json(), null, 1);
});

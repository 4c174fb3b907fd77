defmodule Mix.Tasks.EmbeddedEpmd.Doctor do
  @shortdoc "Checks a project's release files and this host's port"

  @moduledoc """
  Checks the files that set a project's releases up, and who owns the port on this host.

      mix embedded_epmd.doctor

  Ends with status 1 when there is a problem. What a running release has to say of itself is told by

      bin/app rpc "EmbeddedEpmd.doctor()"
  """

  use Mix.Task

  alias EmbeddedEpmd.Doctor
  alias Mix.Tasks.EmbeddedEpmd.Install

  @impl Mix.Task
  def run([]) do
    facts = Doctor.facts()
    findings = Enum.map(Install.files(), &file/1) ++ Doctor.judge_host(facts)
    Mix.shell().info(String.trim_trailing(Doctor.format(findings)))
    if Enum.any?(findings, &(&1.status == :problem)), do: exit({:shutdown, 1})
  end

  defp file({path, wanted}) do
    content = with {:ok, content} <- File.read(path), do: content, else: (_ -> nil)

    case Install.amend(content, wanted) do
      :nothing_to_do ->
        Doctor.ok("#{path} has all it needs.")

      {:contradiction, sentence} ->
        Doctor.problem(
          "#{path} #{sentence}.",
          "Releases of this project will not use embedded_epmd as they should.",
          "Remove that flag, then run mix embedded_epmd.install."
        )

      {:ok, _} ->
        flags = for {flag, value} <- wanted, do: "#{flag} #{value}"

        Doctor.problem(
          "#{path} #{if content, do: "does not have all of", else: "is missing; it should have"} " <>
            "#{Enum.join(flags, " and ")}.",
          "Releases of this project start an epmd daemon or register with one.",
          "Run mix embedded_epmd.install."
        )
    end
  end
end

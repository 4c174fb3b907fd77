defmodule Support.ServiceCase do
  @moduledoc """
  For tests of services under systemd, which `bin/test-systemd` runs. They share a container, in which nothing of a test is
  left after it.
  """

  use ExUnit.CaseTemplate

  alias Support.Container

  require Logger

  using do
    quote do
      import Support.{Bystanders, Container, Deadline, Service, StockNode, Unit}
      import Support.ServiceCase, only: [figure: 1]

      @moduletag :systemd
      @moduletag :capture_log
      @moduletag timeout: 400_000
    end
  end

  setup context do
    "test " <> name = Atom.to_string(context.test)
    IO.puts("\n* #{name}")
    Container.await_boot()
    began = System.monotonic_time(:second)
    journal = Path.join(Container.logs(), String.slice(String.replace(name, ~r/\W+/, "_"), 0, 100) <> ".journal")
    # Shown if the test fails.
    Logger.info("the journal is in #{journal}")

    on_exit(fn ->
      # It may have been rebooted.
      Container.await_boot()
      Container.save_journal(journal)
      Container.reset()
      figure("#{System.monotonic_time(:second) - began} s")
    end)
  end

  @doc "Tells what was found, below the name of the test."
  def figure(text), do: IO.puts("  " <> text)
end

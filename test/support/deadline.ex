defmodule Support.Deadline do
  @moduledoc """
  Assertions that come to hold.
  """

  # Milliseconds.
  @pause 100

  @doc "Asserts over and over until it holds, for up to this many seconds; then it fails as the last `assert` did."
  defmacro assert_within(seconds, assertion) do
    quote do
      require ExUnit.Assertions
      unquote(__MODULE__).retry(unquote(seconds), fn -> ExUnit.Assertions.assert(unquote(assertion)) end)
    end
  end

  @doc "Waits until a condition holds, for up to this many seconds; returns whether it does."
  def within?(seconds, condition) do
    assert_within(seconds, condition.())
    true
  rescue
    ExUnit.AssertionError -> false
  end

  @doc false
  def retry(seconds, assertion), do: retry(seconds, assertion, now() + 1_000 * seconds)

  defp retry(seconds, assertion, deadline) do
    assertion.()
  rescue
    error in ExUnit.AssertionError ->
      if now() >= deadline do
        reraise %{error | message: "After #{seconds} seconds: #{error.message}"}, __STACKTRACE__
      end

      Process.sleep(@pause)
      retry(seconds, assertion, deadline)
  end

  @doc "The milliseconds that a function takes."
  def milliseconds(function) do
    {microseconds, _} = :timer.tc(function)
    div(microseconds, 1_000)
  end

  defp now, do: System.monotonic_time(:millisecond)
end

defmodule Support.Attempt do
  @moduledoc "Runs in a VM of a test: calls a function that may raise."

  @doc "What the function returns, or `{:error, message}`."
  def run(module, function, arguments) do
    apply(module, function, arguments)
  rescue
    error -> {:error, Exception.message(error)}
  end
end
